"""Names of methods as papers write them: cd_gkd_edt becomes CD + GKD + EDT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

# losses and schedules, by the words that names in params.yaml are made of
PAPER = {
    "ab": "AB", "at": "AT", "cc": "CC", "cd": "CD", "ce": "CE", "clilr": "CL-ILR", "crd": "CRD", "css": "CSS",
    "ctkd": "CTKD", "cwd": "CWD", "dkd": "DKD", "dml": "DML", "edt": "EDT", "fitnet": "FitNet",
    "fitnets": "FitNets",
    "fsp": "FSP", "ft": "FT", "gkd": "GKD", "ickd": "ICKD", "kd": "KD", "mutual": "mutual", "nst": "NST",
    "okddip": "OKDDip", "one": "ONE", "pcl": "PCL", "pkt": "PKT", "reviewkd": "ReviewKD", "rkd": "RKD",
    "sp": "SP",
    "srrl": "SRRL", "student": "Student", "vid": "VID", "decay": "decay", "gate": "gate",
}  # fmt: skip
PHRASES = {  # of two words
    "two_stage": "two stage", "cl_ilr": "clilr", "random_teacher": "random teacher",
    "train_mode": "train mode",
}  # fmt: skip
REMARKS = {
    "two stage": "two-stage", "tuned": "tuned", "released": "released form", "paper": "paper's form",
    "described": "as described", "joint": "joint", "untouched": "inactive untouched",
    "random teacher": "random teacher", "self": "self-distillation", "smoothing": "label smoothing",
    "train mode": "teacher in train mode", "usual": "0.1", "longer": "longer", "longest": "longest",
}  # fmt: skip


def paper_names(names: Iterable[str]) -> dict[str, str]:
    """Each name as a paper writes it, unless a word is unknown or two methods would get the same name."""
    found = {name: _paper_name(name) for name in names}
    counts = Counter(found.values())
    return {name: title if counts[title] == 1 else name for name, title in found.items()}


def _paper_name(name: str) -> str:
    text = name
    for phrase, word in PHRASES.items():
        text = text.replace(phrase, word)
    words, remarks = text.split("_"), list[str]()
    while len(words) > 1 and words[-1] in REMARKS:
        remarks.insert(0, REMARKS[words.pop()])
    if not all(word in PAPER for word in words):
        return name
    return " + ".join(PAPER[word] for word in words) + (f" ({', '.join(remarks)})" if remarks else "")
