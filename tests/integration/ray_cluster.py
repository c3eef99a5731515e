"""A Ray cluster on loopback: ``python ray_cluster.py``: a head without processors, and nodes as they are asked for.

It writes a line of JSON once it stands (`address`), takes ``add`` on standard input (and writes the line again), and
ends with it. The argument is how many nodes to begin with.
"""

import json
import sys

from ray.cluster_utils import Cluster

ADDRESS = "127.0.0.1"  # so nothing listens but on loopback
MEMORY = 80 << 20

if __name__ == "__main__":
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0, "node_ip_address": ADDRESS, "include_dashboard": False, "object_store_memory": MEMORY
        },
    )  # fmt: skip
    out = sys.stdout
    sys.stdout = sys.stderr
    asked = int(sys.argv[1])
    try:
        while True:
            for _ in range(asked):
                cluster.add_node(num_cpus=1, num_gpus=1, node_ip_address=ADDRESS, object_store_memory=MEMORY)
            out.write(json.dumps({"address": cluster.address}) + "\n")
            out.flush()
            if sys.stdin.readline() != "add\n":
                break
            asked = 1
    finally:
        cluster.shutdown()
