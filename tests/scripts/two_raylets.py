"""A Ray cluster of two nodes, one core each: ``two_raylets.py FILE`` writes its address there; it ends with its input."""

import sys
from pathlib import Path

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    Path(sys.argv[1]).write_text(cluster.address)
    sys.stdin.read()
    cluster.shutdown()
