from .cases import Case, Task
from .compare import CASES, TOLERANCE, Row, check, moments

__all__ = [
    "CASES",
    "TOLERANCE",
    "Case",
    "Row",
    "Task",
    "check",
    "moments",
]
