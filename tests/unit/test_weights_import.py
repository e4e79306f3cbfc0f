"""Weights of other projects: what is read, what is refused, and which cause is given."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cdkd.core.errors import BadCheckpoint
from cdkd.core.group import Group
from cdkd.core.run_spec import RunSpec, plain_method
from cdkd.core.schedule import Method, Term, Weight
from cdkd.models.build import build
from cdkd.models.weights import classifier_of, load_start, load_weights
from cdkd.models.weights_import import import_weights, without_classifier
from cdkd.storage.files import sha256
from cdkd.training.setup import networks
from tests.clone import Clone

State = dict[str, Tensor]


def weights(network: str = "resnet8", classes: int = 10, channels: int = 3) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(network, classes, channels)
        for value in model.buffers():  # running statistics and counters that are not the initial ones
            value.add_(1)
        return model.state_dict()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def same(found: State, wanted: State) -> bool:
    return list(found) == list(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "plain.pth": lambda state: state,
    "parallel.pt": lambda state: prefixed(state, "module."),
    "twice.pth": lambda state: {"net": {"state_dict": prefixed(state, "module.model.")}},
    "best.pth.tar": lambda state: {
        "epoch": 240,
        "model": state,
        "best_acc": torch.tensor(75.6),
        "optimizer": {},
    },
    "student.pth": lambda state: {"student": state, "args": None},
    "joint.pth": lambda state: (
        prefixed(state, "module.t_net.") | {"module.connectors.0.weight": torch.ones(3)}
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_tensors_from_every_layout(tmp_path: Path, name: str) -> None:
    state = weights()
    assert same(import_weights(saved(tmp_path / name, LAYOUTS[name](state)), "resnet8", 10, 3).state, state)


def test_safetensors_and_the_old_format_of_torch(tmp_path: Path) -> None:
    state = weights()
    save_file(prefixed(state, "module."), tmp_path / "a.safetensors")
    torch.save({"model": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "old.pth"):
        assert same(import_weights(tmp_path / name, "resnet8", 10, 3).state, state)


@pytest.mark.parametrize(
    "network", ["wrn-16-2", "vgg8", "resnet50-crd", "mobilenetv2", "shufflenetv1", "shufflenetv2"]
)
def test_the_names_of_repdistiller(tmp_path: Path, network: str) -> None:
    state = weights(network, 100)
    theirs = {
        re.sub(r"^(block\d)\.(?=\d+\.(bn|conv|shortcut))", r"\1.layer.", name).replace(
            ".shortcut.weight", ".convShortcut.weight"
        )
        if network.startswith("wrn")
        else name: value
        for name, value in state.items()
    }
    assert (theirs.keys() == state.keys()) == (not network.startswith("wrn"))
    assert same(import_weights(saved(tmp_path / "w.pth", {"model": theirs}), network, 100, 3).state, state)


def test_torchvisions_files(tmp_path: Path) -> None:
    import torchvision

    state = torchvision.models.resnet18().state_dict()
    path = saved(tmp_path / "resnet18-f37072fd.pth", state)
    found = import_weights(path, "resnet18-imagenet", 1000, 3)
    assert same(found.state, state)
    assert not found.notes
    assert import_weights(path, "resnet18-imagenet")[1:3] == (1000, 3)  # where the data are not known
    with pytest.raises(BadCheckpoint, match=r"the classifier has 1000 classes, the data 100$"):
        import_weights(path, "resnet18-imagenet", 100, 3)
    for network in ("resnet20", "resnet18-cifar", "resnet34-imagenet"):
        with pytest.raises(BadCheckpoint, match=r"torchvision's resnet18: `network: resnet18-imagenet`$"):
            import_weights(path, network, 1000, 3)


def test_missing_counters_are_filled_and_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    state = weights()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    path = saved(
        tmp_path / "w.pth", {"model": {name: value.half() for name, value in old.items()}, "epoch": 3}
    )
    saved_extra = saved(tmp_path / "x.pth", old | {"projection.weight": torch.ones(2), "note": "by us"})
    found = import_weights(path, "resnet8", 10, 3)
    assert found.state.keys() == state.keys()
    assert found.state["conv1.weight"].dtype is torch.float32
    assert found.state["bn1.num_batches_tracked"].item() == 0
    assert found.notes == [
        "read model; ignored: 'epoch'",
        "9 counters of batches that the file lacks are 0",
        "converted from float16 to float32",
    ]
    notes = import_weights(saved_extra, "resnet8", 10, 3).notes
    assert "ignored, not tensors: 'note'" in notes
    assert "ignored: 'projection.weight'" in notes


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("name", ["w.pth", "w.tar", "w.bin"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, write: Any, name: str) -> None:
    proof = tmp_path / "proof"
    write({"model": weights(), "opt": Malicious(f"touch {proof}")}, tmp_path / name)
    with pytest.raises(BadCheckpoint) as fault:
        import_weights(tmp_path / name, "resnet8", 10, 3)
    assert not proof.exists()
    assert "\n" not in str(fault.value)
    if write is torch.save:
        assert "posix.system" in str(fault.value)
        assert "nothing was run" in str(fault.value)


@pytest.mark.slow
def test_the_cause_of_a_misfit(tmp_path: Path) -> None:
    def cause(state: Any, network: str, classes: int = 10, channels: int = 3) -> str:
        with pytest.raises(BadCheckpoint) as fault:
            import_weights(saved(tmp_path / "w.pth", state), network, classes, channels)
        assert len(str(fault.value)) < 500
        assert "\n" not in str(fault.value)
        return str(fault.value)

    state = weights()
    assert "the classifier has 10 classes, the data 7" in cause(state, "resnet8", 7)
    assert "images of 3 channels, the data have 1" in cause(state, "resnet8", channels=1)
    assert "looks like resnet8: `network: resnet8`" in cause(state, "resnet20")
    assert "looks like resnet56: `network: resnet56`" in cause(weights("resnet56"), "resnet20")
    assert "looks like wrn-40-2" in cause(prefixed(weights("wrn-40-2"), "module."), "wrn-16-2")
    wide = {name: torch.cat([value] * 3) if value.dim() else value for name, value in state.items()}
    assert "weights of another width: conv1.weight is (48, 3, 3, 3), expected (16" in cause(wide, "resnet8")
    other = {f"module.part{i}.weight": torch.ones(2) for i in range(148)}
    assert "all keys begin with module.; no name is one of the network's" in cause(other, "resnet8")
    means = {name: value for name, value in state.items() if "running" not in name}
    assert "lacks BatchNorm's running statistics" in cause(means, "resnet8")
    assert "not finite: 'fc.bias'" in cause(state | {"fc.bias": torch.full((10,), torch.nan)}, "resnet8")
    two = prefixed(state, "teacher.") | prefixed(state, "student.")
    assert "holds several networks, 'student.', 'teacher.'" in cause(two, "resnet8")
    assert "holds no state dict" in cause({"epoch": 3}, "resnet8")
    assert "holds list" in cause([1, 2], "resnet8")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    (tmp_path / "text.safetensors").write_text("<html>not found</html>")
    (tmp_path / "cut.pth").write_bytes(saved(tmp_path / "w.pth", weights()).read_bytes()[:5000])
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "digits.pth").write_text("hello")
    os.mkfifo(tmp_path / "pipe.pth")
    damaged = "not a file of (torch.save|safetensors), or a damaged one"
    for name, cause in {
        **dict.fromkeys(("text.pth", "text.safetensors", "cut.pth", "half.pth", "digits.pth"), damaged),
        "empty.pth": "is empty",
        "pipe.pth": "not a file",
        ".": "not a file",
        "absent.pth": "no such file",
    }.items():
        with pytest.raises(BadCheckpoint, match=rf"^\S*: [^\n]*{cause}[^\n]*$") as fault:
            import_weights(tmp_path / name, "resnet8", 10, 3)
        assert not re.search(r"\((\d*|Invalid argument)\)", str(fault.value)), name


def test_a_start_with_and_without_its_classifier(tmp_path: Path) -> None:
    found = import_weights(saved(tmp_path / "w.pth", weights("resnet8", 12)), "resnet8")
    part = without_classifier(found, "resnet8", "a note")
    assert found.state.keys() - part.state.keys() == {"fc.weight", "fc.bias"}
    assert part.notes[-1] == "a note"
    for name, state in (("whole", found.state), ("part", part.state)):
        save_file(state, tmp_path / name)
    model = build("resnet8", 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_start(model, tmp_path / "part", sha256(tmp_path / "part"))
    last = classifier_of(model)
    assert last == ("fc.weight", "fc.bias")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name in last else found.state[name])
    with pytest.raises(BadCheckpoint, match=r"fc.weight is \(12, 64\), expected \(10, 64\)"):
        load_start(model, tmp_path / "whole", sha256(tmp_path / "whole"))
    with pytest.raises(BadCheckpoint, match=r"missing fc\.weight; missing fc\.bias"):
        load_weights(model, tmp_path / "part", sha256(tmp_path / "part"))
    save_file({name: part.state[name] for name in list(part.state)[1:]}, tmp_path / "less")
    with pytest.raises(BadCheckpoint, match=r"missing conv1\.weight"):
        load_start(model, tmp_path / "less", sha256(tmp_path / "less"))
    with pytest.raises(BadCheckpoint, match="another file, or a damaged one"):
        load_start(model, tmp_path / "less", sha256(tmp_path / "part"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device", "."):
        with pytest.raises(BadCheckpoint, match="not a file"):
            load_weights(model, tmp_path / name, "0" * 64)


def spec_of(method: Method, start: dict[str, str] | None) -> RunSpec:
    config = {"data": {"classes": 10, "image": [8, 8, 3]}, "network": "resnet8", "teacher": None}
    own = {} if start is None else {"start": start}
    return RunSpec("e", "m", 0, config | plain_method(method) | own, "code")


def test_a_run_and_the_networks_of_a_group_start_from_it(tmp_path: Path) -> None:
    state = weights()
    save_file(state, tmp_path / "w")
    start = {"network": "resnet8", "sha256": sha256(tmp_path / "w")}
    cpu, terms = torch.device("cpu"), {"ce": Term(Weight(1.0))}
    alone = networks(spec_of(Method(terms), start), cpu, tmp_path / "w")
    assert isinstance(alone, torch.nn.Module)
    assert same(alone.state_dict(), state)
    assert spec_of(Method(terms), start).fingerprint != spec_of(Method(terms), None).fingerprint
    group = Group({"a": "resnet8", "b": "resnet8", "c": "resnet14"}, "b")
    made = networks(spec_of(Method(terms, group=group), start), cpu, tmp_path / "w")
    fresh = networks(spec_of(Method(terms, group=group), None), cpu)
    assert isinstance(made, dict)
    assert isinstance(fresh, dict)
    assert same(made["b"].state_dict(), state)
    assert same(made["c"].state_dict(), fresh["c"].state_dict())
    for name, value in made["a"].state_dict().items():
        own = fresh["a"].state_dict()[name]
        assert torch.equal(value, own if name.startswith("fc.") else state[name])
    with pytest.raises(BadCheckpoint, match="which are not given"):
        networks(spec_of(Method(terms), start), cpu)


@pytest.mark.slow
def test_a_student_that_starts_from_a_file(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    short = clone.folder / "params.yaml"
    clone.params(short.read_text().replace("seeds: [0, 1]", "seeds: [0]").replace("epochs: 6", "epochs: 1"))
    clone.params(short.read_text().replace("milestones: [4]", "milestones: []"))
    words = ["cdkd", "student", "--from", str(saved(tmp_path / "w.pth", weights("resnet8", 7, 1)))]
    assert "classes were not compared" in clone.run(*words)
    clone.run("cdkd", "prepare")
    text = clone.run(*words)
    assert "its classifier is left out: it has 7 classes, the data 10" in text
    lines = re.search(
        r"under student:\n  weights: (students/w-\w{12}\.safetensors)\n  sha256: (\w{64})$", text, re.M
    )
    assert lines
    params = short.read_text()
    clone.run("cdkd", "teacher")
    clone.run("cdkd", "distill", "student")
    without = clone.record("student")
    clone.params(params.replace("resnet8}", f"resnet8, weights: {lines[1]}, sha256: {lines[2]}}}"))
    clone.run("cdkd", "distill", "student")
    record = clone.record("student")
    assert record["config"]["start"] == {"network": "resnet8", "sha256": lines[2]}
    assert record["history"] != without["history"]
    assert "bit-identical" in clone.run("cdkd", "verify", "student")
    assert f"resnet8 from the weights {lines[1]}" in (
        clone.run("cdkd", "report") + (clone.folder / "reports" / "digits" / "report.md").read_text()
    )
    whole = clone.folder / "students" / "w.safetensors"
    own = f"resnet8, weights: students/w.safetensors, sha256: {sha256(whole)}}}"
    clone.params(params.replace("resnet8}", own))
    text = clone.run("cdkd", "distill", "student", code=2)
    assert "fc.weight is (7, 64), expected (10, 64)" in text
    assert "`cdkd student --from students/w.safetensors` gives the cause, or converts them" in text


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    path = saved(
        tmp_path / "their best.pth", {"model": prefixed(weights("resnet14", 10, 1), "module."), "epoch": 9}
    )
    words = ["cdkd", "teacher", "--from", str(path)]
    assert "neither classes nor accuracy were compared" in clone.run(*words)
    clone.run("cdkd", "prepare")
    text = clone.run(*words)
    measured = re.search(r"error (\d+\.\d+) % \(measured here, 797 test images\)", text)
    lines = re.search(
        r"^  weights: (teachers/their-best\.safetensors)\n  sha256: ([0-9a-f]{64})$", text, re.M
    )
    assert measured
    assert lines
    assert "ignored: 'epoch'" in text
    file = clone.folder / lines[1]
    assert sha256(file) == lines[2]
    assert load_file(file).keys() == weights("resnet14", 10, 1).keys()
    load_weights(build("resnet14", 10, 1), file, lines[2])
    params = (clone.folder / "params.yaml").read_text()
    own = f"network: resnet14, weights: {lines[1]}, sha256: {lines[2]},"
    clone.params(params.replace("network: resnet14,", own))
    text = clone.run("cdkd", "teacher")
    assert f"top-1 error {measured[1]} %" in text
    assert "(weights from a file, test)" in text
    assert "last epoch" not in text
    assert "warning: the teacher is useless: on the test split it has top-1 error " in text  # random weights
    assert text.count("useless") == 1
    assert "the teacher is useless" in clone.run("cdkd", "doctor", "--quick")
    assert (
        "The teacher is useless"
        in clone.run("cdkd", "report")
        + (clone.folder / "reports" / "digits" / "report.md").read_text().split("##")[0]
    )
    clone.params(params.replace("network: resnet14,", "network: resnet20,"))
    text = clone.run(*words, code=2)
    assert "looks like resnet14" in text
    assert sorted(one.name for one in file.parent.iterdir()) == [file.name]
    save_file(prefixed(load_file(file), "module."), clone.folder / "other.safetensors")
    digest = sha256(clone.folder / "other.safetensors")
    own = f"network: resnet14, weights: other.safetensors, sha256: {digest},"
    clone.params(params.replace("network: resnet14,", own))
    assert "`cdkd teacher --from other.safetensors` gives the cause" in clone.run("cdkd", "teacher", code=2)
