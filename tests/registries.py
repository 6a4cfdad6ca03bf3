"""What extensions register in, and putting it back."""

from contextlib import contextmanager

from pndm_solvers import TABLEAUX
from pndm_solvers.libraries import LIBRARIES
from pndm_solvers.methods import SOLVERS
from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.schedules import SCHEDULES
from pndm_solvers.transfer import SPACES

REGISTRIES = {
    "TABLEAUX": TABLEAUX,
    "SOLVERS": SOLVERS,
    "SCHEDULES": SCHEDULES,
    "PREDICTIONS": PREDICTIONS,
    "SPACES": SPACES,
    "LIBRARIES": LIBRARIES,
}
SHIPPED = {name: dict(registry) for name, registry in REGISTRIES.items()}


@contextmanager
def registered_for_now():
    """What is registered within is not registered afterwards: other tests run in the same process."""
    try:
        yield
    finally:
        for name, registry in REGISTRIES.items():
            registry.clear()
            registry.update(SHIPPED[name])
