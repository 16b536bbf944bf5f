"""What a tool is told of one image."""

from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """One image, and its label as `apply` has it, beside what the run says."""

    id: str
    path: Path | None  # absolute; None where the image is in no file of its own
    label: str  # as applied
    split: str  # train, validation, test
    trusted: bool
    given: str
    source: str  # given, trusted, corrected, reviewed
    suggested: str = ""  # '' where the run was not asked, as of test images
    confidence: float = 0.0  # of the suggested label
    p_given: float = 1.0
    label_score: float = 1.0
    flagged: bool = False  # is_label_issue
