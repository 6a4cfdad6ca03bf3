"""Sets of many images, drawn by any number of processes: what `pndm-solvers generate` and `verify` do.

A set is a folder of shards and a manifest. The manifest holds all that determines the images. Image i is drawn from its
own seed in a batch of its own place, so it is the same whoever draws it, and after every restart.
"""

from pndm_solvers.generation.folder import Found, look
from pndm_solvers.generation.manifest import Settings
from pndm_solvers.generation.network import Network
from pndm_solvers.generation.shards import read_shard

__all__ = ["Found", "Network", "Settings", "look", "read_shard"]
