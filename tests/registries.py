"""What extensions register in, and putting it back."""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

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


@contextmanager
def registered_for_now():
    """What is registered within is not registered afterwards: other tests run in the same process."""
    with ExitStack() as stack:
        for registry in REGISTRIES.values():
            stack.enter_context(patch.dict(registry))
        yield
