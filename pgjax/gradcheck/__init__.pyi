from .cases import CASES, Case, Task
from .compare import TOLERANCE, Row, check, moments

__all__ = [
    "CASES",
    "TOLERANCE",
    "Case",
    "Row",
    "Task",
    "check",
    "moments",
]
