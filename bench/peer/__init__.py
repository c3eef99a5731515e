"""Generators that nsstream is compared with, on rows of packets or of flow records."""
