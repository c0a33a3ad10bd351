"""Models, records, cards and pictures that are broken or meant ill, and what the command line makes of them.

Each is made by code, from a good one. ``python hostile.py FOLDER`` makes every one, runs a command on it in this one
process, and prints a line of JSON for each: exit status, last line of the error stream, and what the memory rose to.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

from hostile_changes import (
    CONFIG,
    INDEX,
    PROCESSOR,
    WEIGHTS,
    Bomb,
    Change,
    both,
    code_of_its_own,
    cut,
    entry,
    gone,
    header,
    pickled,
    png,
    put,
    sharded,
    tensors,
    wrote,
)

DEEP = '{"a":' * 50_000 + "1" + "}" * 50_000
VIT: dict[str, Change] = {
    **{f"weights cut at {share}": cut(WEIGHTS, share) for share in (0, 0.001, 0.1, 0.5, 0.99, -1)},
    "weights garbage": wrote(WEIGHTS, b"\xff" * 4096),
    "weights zip": wrote(WEIGHTS, b"PK\x03\x04" + b"\0" * 100),
    "weights pickled": pickled(WEIGHTS),
    "weights only pickled": both(gone(WEIGHTS), pickled("pytorch_model.bin")),
    "weights a dangling link": both(gone(WEIGHTS), lambda folder: (folder / WEIGHTS).symlink_to("nowhere")),
    "weights a folder": both(gone(WEIGHTS), lambda folder: (folder / WEIGHTS).mkdir()),
    "header without end": header({}, length=2**63 - 1),
    "header longer than the file": header({}, length=10**6),
    "header of 2 GB": header({}, length=2**31),
    "header no JSON": header(b"[[[["),
    "header a list": header([1, 2]),
    "header deep": header(DEEP.encode()),
    "header of nothing": header({}, body=b""),
    "offsets below zero": header(entry(offsets=(-64, 0))),
    "offsets turned": header(entry(offsets=(64, 0))),
    "offsets beyond the end": header(entry(offsets=(0, 2**40))),
    "offsets that overlap": header(entry() | {"v": entry()["w"]}),
    "shape of another size": header(entry(shape=(400, 400))),
    "shape without end": header(entry(shape=(2**62, 2**62))),
    "shape below zero": header(entry(shape=(-4, -4))),
    "dtype of no kind": header(entry(dtype="F7")),
    "tensors of another model": header(entry()),
    "no head": tensors(classifier__weight=None),
    "another head": tensors(classifier__weight=lambda one: one[:1].clone()),
    "another width": tensors(layernorm__weight=lambda one: one[:3].clone()),
    "index to a pickle": sharded({"w": "pytorch_model.bin"}),
    "index out of the folder": sharded({"w": "../outside.safetensors"}),
    "index to the root": sharded({"w": "/etc/passwd"}),
    "index to a missing shard": sharded({"w": "model-00002-of-00002.safetensors"}),
    "index of a list": sharded(["w"]),
    "index of nothing": sharded({}),
    "index of numbers": sharded({"w": 5}),
    "index no JSON": both(gone(WEIGHTS), wrote(INDEX, "{")),
    "index deep": both(gone(WEIGHTS), wrote(INDEX, DEEP)),
    "config empty": wrote(CONFIG, ""),
    "config cut": cut(CONFIG, 0.5),
    "config a list": wrote(CONFIG, "[]"),
    "config null": wrote(CONFIG, "null"),
    "config of nothing": wrote(CONFIG, "{}"),
    "config deep": wrote(CONFIG, DEEP),
    "config UTF-16": wrote(CONFIG, '{"model_type": "vit"}'.encode("utf-16")),
    "config of 40 MB": wrote(CONFIG, '{"a": "' + "x" * 40 * 2**20 + '"}'),
    "config pickled": pickled(CONFIG),
    "config gone": gone(CONFIG),
    "code of its own": code_of_its_own(CONFIG, "AutoModelForImageClassification"),
    "code of its own, config": code_of_its_own(CONFIG, "AutoConfig"),
    "attention from the Hub": put(CONFIG, attn_implementation="evil/kernel"),
    "attention from the Hub, inner": put(CONFIG, _attn_implementation="evil/kernel"),
    "experts from the Hub": put(CONFIG, experts_implementation="evil/kernel"),
    "an adapter": wrote("adapter_config.json", '{"base_model_name_or_path": "../other", "peft_type": "LORA"}'),
    **{f"model_type {one!r}": put(CONFIG, model_type=one) for one in ("bert", "nothing", 5, ["vit"], None, "../vit")},
    **{f"hidden_size {one!r}": put(CONFIG, hidden_size=one) for one in (0, -32, 33, 10**9, 10**30, "x", 1.5, None, [])},
    **{f"{one} layers": put(CONFIG, num_hidden_layers=one) for one in (-1, 40, 20_000, 10**12, "x", [1])},
    **{f"intermediate_size {one}": put(CONFIG, intermediate_size=one) for one in (0, 10**9)},
    **{f"image_size {one}": put(CONFIG, image_size=one) for one in (0, 10**6, [1, 2, 3])},
    **{f"patch_size {one}": put(CONFIG, patch_size=one) for one in (0, 10**9)},
    **{f"{one} heads": put(CONFIG, num_attention_heads=one) for one in (0, 7)},
    **{f"{one} channels": put(CONFIG, num_channels=one) for one in (0, 10**9)},
    "no such activation": put(CONFIG, hidden_act="os.system"),
    "classes a list": put(CONFIG, id2label=["a"]),
    "a million classes": put(CONFIG, id2label={str(one): "x" for one in range(10**6)}),
    "classes without numbers": put(CONFIG, id2label={"a": "b"}),
    "epsilon a word": put(CONFIG, layer_norm_eps="x"),
    "dtype a word": put(CONFIG, dtype="os.system"),
    "quantized": put(CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}),
    "quantized by nobody": put(CONFIG, quantization_config={"quant_method": "x"}),
    "layers in a list without end": put(CONFIG, hidden_sizes=[1] * 200_000),
    "processor no JSON": wrote(PROCESSOR, "{"),
    "processor a list": wrote(PROCESSOR, "[]"),
    "processor deep": wrote(PROCESSOR, DEEP),
    "processor of nobody": put(PROCESSOR, image_processor_type="Nobody"),
    "processor a tokenizer": put(PROCESSOR, image_processor_type="BertTokenizer"),
    "processor of its own code": code_of_its_own(PROCESSOR, "AutoImageProcessor"),
    **{
        f"pictures of {one}": put(PROCESSOR, size=one)
        for one in (
            {"height": 20_000, "width": 20_000},
            {"shortest_edge": 10**6},
            {"height": -5, "width": 5},
            {"height": 0, "width": 0},
            {"x": 5},
            "large",
        )
    },
    "a crop of 20,000": put(PROCESSOR, do_center_crop=True, crop_size={"height": 20_000, "width": 20_000}),
    "five means": put(PROCESSOR, image_mean=[0.5] * 5),
    "means of words": put(PROCESSOR, image_mean=["a", "b", "c"]),
    "no such resampling": put(PROCESSOR, resample=99),
}
TIMM: dict[str, Change] = {
    **{f"timm {one!r}": put(CONFIG, architecture=one) for one in ("nothing", 5, ["x"], "../../x", "hf-hub:me/x", "")},
    "timm weights cut": cut(WEIGHTS, 0.5),
    "timm weights pickled": pickled(WEIGHTS),
    "timm weights only pickled": both(gone(WEIGHTS), pickled("pytorch_model.bin")),
    "timm in its own form": put(CONFIG, pretrained_cfg={"custom_load": True, "input_size": [3, 64, 64]}),
    **{f"timm {one!r} classes": put(CONFIG, num_classes=one) for one in (10**9, -1, "x", 7)},
    **{
        f"timm model_args {one}": put(CONFIG, model_args=one)
        for one in (
            {"layers": [10**6, 1, 1, 1]},
            {"channels": [10**6] * 4},
            {"block": "os.system"},
            {"no": 1},
            [1],
            {"checkpoint_path": "/etc/passwd"},
            {"cardinality": 10**9},
        )
    },
    **{
        f"timm pretrained_cfg {one}": put(CONFIG, pretrained_cfg=one)
        for one in (
            [],
            {"input_size": [3, 20_000, 20_000]},
            {"input_size": [3, 64, 64], "crop_pct": 1e-6},
            {"input_size": "x"},
            {"input_size": [3, 64, 64], "interpolation": "os.system"},
            {"input_size": [3, 64, 64], "mean": "x"},
        )
    },
}


ROW = b"\0" + b"\x80" * 24
PICTURES: dict[str, bytes] = {
    "picture empty": b"",
    "picture text": b"no picture",
    "picture cut": png(8, 8, ROW * 8)[:45],
    "picture of 10^10 pixels": png(100_000, 100_000, b"\0" * 1000),
    "picture of 2^62 pixels": png(2**31 - 1, 2**31 - 1, b""),
    "picture of no pixels": png(0, 0, b""),
    "picture with text of 200 MB": png(8, 8, ROW * 8, (b"zTXt", b"x\0\0" + zlib.compress(b"x" * 200 * 2**20))),
    "picture with half its rows": png(8, 8, ROW * 4),
    "picture a pickle": pickle.dumps(Bomb("executed")),
    "picture an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(executed) (w) file\n%%EOF\n",
    "picture an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
    "picture a GIF of 65,535": b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 6 + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x00;",
    "picture a BMP of 2^31": b"BM"
    + struct.pack("<IHHI", 100, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
    "picture a TIFF that refers to itself": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "picture a WebP cut": b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
    "picture a JPEG cut": b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\0\x11\x08" + b"\xff" * 4,
}
RECORD, CARD = "immunization.json", "README.md"
RELEASE: dict[str, Change] = {
    "record empty": wrote(RECORD, ""),
    "record a list": wrote(RECORD, "[]"),
    "record deep": wrote(RECORD, DEEP),
    "record of 40 MB": wrote(RECORD, '{"a": "' + "x" * 40 * 2**20 + '"}'),
    "record pickled": pickled(RECORD),
    "record with other digits": lambda folder: (folder / RECORD).write_text(
        (folder / RECORD).read_text(encoding="utf-8").replace("0.964", "0.999"), encoding="utf-8"
    ),
    **{f"record with results {one!r}": put(RECORD, results=one) for one in ([], {"attacks": 5}, {"rir": [1]}, "x")},
    **{f"record with files {one!r}": put(RECORD, files=one) for one in ([], {"../../x": "y"}, {"config.json": 5})},
    "record of another version": put(RECORD, schema_version=99),
    "record of true version": put(RECORD, schema_version=True),
    "record with a path for a base": put(RECORD, base_model=["../x"]),
    "card empty": wrote(CARD, ""),
    "card not UTF-8": wrote(CARD, b"\xff\xfe\0caf\xe9"),
    "card of 40 MB": wrote(CARD, "x" * 40 * 2**20),
    "card with YAML that grows": wrote(
        CARD,
        "---\na: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{chr(98 + k)}: &{chr(98 + k)} [" + ",".join(f"*{chr(97 + k)}" for _ in range(9)) + "]\n" for k in range(9)
        )
        + "---\ntext\n",
    ),
    "card with YAML that runs": wrote(CARD, "---\na: !!python/object/apply:os.mkdir [executed]\n---\ntext\n"),
    "card with deep YAML": wrote(CARD, "---\na: " + "[" * 20_000 + "\n---\ntext\n"),
    "card with two parts": lambda folder: (folder / CARD).write_text(
        2 * (folder / CARD).read_text(encoding="utf-8"), encoding="utf-8"
    ),
    "card with an end alone": wrote(CARD, "<!-- hf-immunize: end -->\n"),
    "card with other digits": lambda folder: (folder / CARD).write_text(
        (folder / CARD).read_text(encoding="utf-8").replace("96.4 %", "99.9 %"), encoding="utf-8"
    ),
    "card a link": both(gone(CARD), lambda folder: (folder / CARD).symlink_to("/etc/passwd")),
    "licence a link": lambda folder: (folder / "LICENSE").symlink_to("/etc/passwd"),
    "figures a link": both(
        lambda folder: shutil.rmtree(folder / "figures"), lambda folder: (folder / "figures").symlink_to("/etc")
    ),
    "a token in a licence": wrote("LICENSE.html", "hf_" + "A1b2" * 8),
    "a figure of another run": wrote("figures/spectra.png", png(8, 8, ROW * 8)),
    "release with pickled weights": pickled(WEIGHTS),
    "release with a stale index": wrote(INDEX, json.dumps({"weight_map": {"w": "../x.safetensors"}})),
}
CASES = {
    **{name: ("vit", change) for name, change in VIT.items()},
    **{name: ("timm", change) for name, change in TIMM.items()},
    **{name: ("picture", content) for name, content in PICTURES.items()},
    **{name: ("release", change) for name, change in RELEASE.items()},
}
#: Odd, but they can be served: layers of random weights are warned of, and what is not known is not used.
SERVED = {
    "40 layers",
    "quantized by nobody",
    "picture with half its rows",
    "card empty",
    "card with YAML that grows",
}


def command(kind: str, name: str, good: Path, case: Path) -> list[str]:
    """A good folder copied and changed, and the command that meets it."""
    change: Any = CASES[name][1]
    data = {"primary": good / "pictures", "harmful": good / "pictures"}
    model = base = good / "vit"
    if kind == "picture":
        base = shutil.copytree(good / "vit", case / "base")
        shutil.copytree(good / "pictures", case / "pictures")
        (case / "pictures" / "a" / "evil.png").write_bytes(change)
        data["harmful"] = case / "pictures"
    else:
        model = shutil.copytree(good / kind, case / kind)
        base = good / kind
        change(model)
    if kind == "release":
        return ["push", str(model), "--repo_id", "me/x", "--dry_run"]
    given = ["evaluate", str(model), "--base", str(base), "--groups", "2", "--group_size", "3", "--batch_size", "4"]
    return [*given, *(word for task, path in data.items() for word in (f"--{task}", str(path)))]


def make_good(good: Path) -> None:
    """What every case is made from."""
    import timm
    from PIL import Image
    from releases import save
    from samples import tiny_timm, tiny_vit

    for part in tiny_vit():
        part.save_pretrained(good / "vit")
    timm.models.save_for_hf(tiny_timm(), good / "timm", safe_serialization=True)
    save(good / "release", figures=True)
    for index in range(8):
        path = good / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((24, 20), 50 + index).convert("RGB").save(path)


def run(root: Path) -> None:
    from hf_immunize.cli.main import main

    out = sys.stdout
    (root / "good").mkdir()
    make_good(root / "good")
    warnings.simplefilter("ignore")
    os.chdir(root)
    for number, (name, (kind, _)) in enumerate(CASES.items()):
        case = root / str(number)
        case.mkdir()
        err, status = io.StringIO(), None
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            try:
                status = main(command(kind, name, root / "good", case))
            except BaseException as error:
                import traceback

                err.write("Traceback: " + "".join(traceback.format_exception(error))[-1500:])
        lines = [line for line in err.getvalue().splitlines() if line.strip()]
        peak = _peak()
        found = {"name": name, "status": status, "error": err.getvalue()[-2000:], "last": lines[-1] if lines else ""}
        executed = (case / "executed").exists() or (root / "executed").exists()
        print(json.dumps(found | {"executed": executed, "peak": peak}), file=out, flush=True)
        shutil.rmtree(case, ignore_errors=True)


def _peak() -> float:
    """GiB that this process has held at most.

    What getrusage tells of a process on Linux is no less than what the one that started it held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30


if __name__ == "__main__":
    run(Path(sys.argv[1]))
