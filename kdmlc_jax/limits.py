"""What a run's figures may be at most, for who lets a machine decide (`--fail-on noise=0.1,flagged=500`)."""

from kdmlc_jax.errors import LimitError, UserError, in_range, suggest

NAMES = ("noise", "flagged")


def parse(text: str) -> dict[str, float]:
    """'noise=0.1,flagged=500' -> {"noise": .1, "flagged": 500.}: noise, the estimated share of wrong labels, in [0, 1];
    flagged, how many labels are flagged (is_label_issue).

    Raises:
      UserError: for another name, and what is no number in range.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in NAMES:
            raise UserError(f'--fail-on: "{name}" is not one of {", ".join(NAMES)}{suggest(name, NAMES)}')
        try:
            found[name] = in_range(f"--fail-on {name}", float(value), 0.0, *([1.0] if name == "noise" else []))
        except ValueError as error:
            wrong = f'--fail-on {name}: "{value}" is not a number'
            raise (error if isinstance(error, UserError) else UserError(wrong)) from None
    return found


def check(limits: dict[str, float], summary: dict) -> None:
    """Holds the figures of a run's summary to `limits`.

    Raises:
      LimitError: naming those above it, and one that the run has not estimated: nobody can say that it is below.
    """
    figures = {"noise": summary["noise"]["estimated"], "flagged": summary["labels"]["flagged"]}
    words = {name: "not estimated" if figures[name] is None else f"{figures[name]:.4g}" for name in NAMES}
    above = [name for name, most in limits.items() if figures[name] is None or figures[name] > most]
    if above:
        raise LimitError("; ".join(f"{name}: {words[name]}, at most {limits[name]:g} is allowed" for name in above))
