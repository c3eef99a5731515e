"""Classes of services: public, all of them named, and a service's by protocol and port alone."""

import numpy as np

from nsstream.encode.flow_schema import RARE_PORT
from nsstream.encode.public_flow_codec import FLOW_SERVICES
from nsstream.encode.service_classes import SERVICE_CLASSES, service_classes
from nsstream.trace.fields import ICMP, TCP, UDP


def test_common_services_stand_alone_and_every_class_is_somebodys():
    every = np.array([(p, 4, port) for p in (TCP, UDP) for port in range(65_536)] + [(p, 4, 0) for p in (1, 58, 47)])
    classes = service_classes(every)
    assert np.unique(classes).tolist() == list(range(SERVICE_CLASSES))
    for service in ((TCP, 4, 443), (TCP, 4, 53), (UDP, 4, 53), (UDP, 4, 443), (ICMP, 4, 0)):
        mine = service_classes(np.array([service]))
        others = every[classes == mine[0]]
        assert set(map(tuple, others.tolist())) == {service}


def test_the_ip_version_makes_no_difference():
    known = np.array([service for service in FLOW_SERVICES if service[2] != RARE_PORT])
    other = known.copy()
    other[:, 1] = 10 - known[:, 1]
    assert np.array_equal(service_classes(known), service_classes(other))
