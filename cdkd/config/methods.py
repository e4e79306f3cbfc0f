"""The methods of params.yaml: named sums of losses, each with its weight over time, checked term by term."""

from __future__ import annotations

from typing import Any

from cdkd.config.faults import Faults, show, suggest
from cdkd.config.schema import Schedule, term_model
from cdkd.core.names import EXPECTED, is_name
from cdkd.core.schedule import Method, Term, Weight
from cdkd.losses import signature

RESERVED = ("teacher", "search")  # their runs lie beside the methods'
Place = tuple[Any, ...]


def check_name(value: Any, place: Place, faults: Faults) -> str:
    """The value as text, and a fault noted if it cannot be the name of an experiment, a method or a study."""
    if not is_name(value):
        faults.add(place, f"{show(value)} is no name; expected {EXPECTED}")
    elif value in RESERVED:
        faults.add(place, f"{show(value)} is taken; expected another name than {' or '.join(RESERVED)}")
    return str(value)


def methods_of(value: Any, epochs: int | None, faults: Faults) -> dict[str, Method]:
    if not isinstance(value, dict) or not value:
        faults.add(
            ("methods",),
            f"{show(value)}; expected named methods, such as kd: {{ce: {{weight: 0.1}}, kd: {{weight: 0.9}}}}",
        )
        return {}
    for name in value:
        check_name(name, ("methods", name), faults)
    return {str(name): method_of(terms, ("methods", name), epochs, faults) for name, terms in value.items()}


def method_of(terms: Any, place: Place, epochs: int | None, faults: Faults) -> Method:
    if not isinstance(terms, dict) or not terms:
        faults.add(place, f"{show(terms)}; expected losses with their weights, such as {{ce: {{weight: 1}}}}")
        return Method({})
    inactive = terms.get("inactive", "untouched")
    terms = {name: term for name, term in terms.items() if name != "inactive"}
    if inactive not in ("untouched", "decayed"):
        faults.add((*place, "inactive"), f"{show(inactive)}; expected untouched or decayed")
    method: dict[str, Term] = {}
    losses = signature.names()
    for loss, term in terms.items():
        if loss not in losses:
            faults.add(
                (*place, loss),
                f"no such loss{suggest(str(loss), losses)}; expected one of {', '.join(losses)}",
            )
            continue
        built = faults.section(term_model(loss), term, (*place, loss))
        if built is not None:
            method[loss] = _term(built, (*place, loss), epochs, faults)
    if epochs is not None and len(method) == len(terms):
        silent = [e for e in range(epochs) if not any(term.weight.at(e) > 0 for term in method.values())]
        if silent:
            faults.add(
                place,
                f"no loss has a weight above 0 in epochs {_ranges(silent)}; nothing would be trained there",
            )
    return Method(method, inactive)


def _term(built: Any, place: Place, epochs: int | None, faults: Faults) -> Term:
    weight = Weight(
        built.weight, built.start, built.stop, built.milestones, built.decay, built.curve, built.over
    )
    if weight.over is not None and weight.milestones:
        faults.add((*place, "over"), f"{weight.over} beside milestones; expected one of the two")
    if weight.over is None and weight.curve != "step":
        faults.add(
            (*place, "curve"), f"{weight.curve} needs over, the epochs until weight * decay is reached"
        )
    if weight.decay == 0 and weight.curve not in ("linear", "cosine"):
        faults.add((*place, "decay"), "0; expected more than 0, but for a linear or cosine curve")
    if weight.stop is not None and weight.stop <= weight.start:
        faults.add((*place, "stop"), f"{weight.stop}; expected more than start, {weight.start}")
    if epochs is not None:
        milestones_rise(weight.milestones, epochs, (*place, "milestones"), faults)
        for field in ("start", "stop"):
            epoch = getattr(weight, field)
            if epoch is not None and epoch > epochs - (field == "start"):
                faults.add(
                    (*place, field), f"{epoch} beyond the last epoch; training has epochs 0 to {epochs - 1}"
                )
    return Term(
        weight, {key: value for key, value in built.model_dump().items() if key not in Schedule.model_fields}
    )


def _ranges(epochs: list[int]) -> str:
    """[0, 1, 2, 7] as "0-2, 7"."""
    parts: list[list[int]] = []
    for epoch in epochs:
        if parts and epoch == parts[-1][-1] + 1:
            parts[-1].append(epoch)
        else:
            parts.append([epoch])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def milestones_rise(milestones: tuple[int, ...], epochs: int, place: Place, faults: Faults) -> None:
    if list(milestones) != sorted(set(milestones)):
        faults.add(place, f"{list(milestones)}; expected rising epochs, each once")
    if late := [m for m in milestones if m >= epochs]:
        faults.add(place, f"{late} beyond the last epoch; training has epochs 0 to {epochs - 1}")
