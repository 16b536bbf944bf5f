"""Exports a network that a run has left for programs without JAX or this package.

    python -m kdmlc_jax.export --workdir runs/photos --to onnx,safetensors
    python -m kdmlc_jax.export --workdir runs/photos --to onnx,stablehlo,safetensors,tflite --network teacher --out big

Every file is read back in a fresh process that imports nothing of this package, and its answers are held to ours,
before the folder gets its name.
"""

import pathlib
import sys
import tempfile
from types import ModuleType
from typing import TYPE_CHECKING

from kdmlc_jax.cli import Parser, guarded
from kdmlc_jax.errors import UserError, choose

if TYPE_CHECKING:
    from kdmlc_jax.export.deployed import Deployed

CARD = "MODEL_CARD.md"


def main(argv: list[str]) -> None:
    """Writes the folder, or nothing."""
    parser = Parser("kdmlc_jax.export", "Export a network that a run has left.")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument(
        "--to", default="onnx", help="onnx, stablehlo, safetensors, tflite, tflite-int8; several with commas"
    )
    parser.add_argument("--network", default="", help="student or teacher (default: the one that the run is for)")
    parser.add_argument("--out", type=pathlib.Path, help="a new folder (default: <workdir>/export/<network>)")
    flags = parser.parse_args(argv)

    from kdmlc_jax import finished
    from kdmlc_jax.export import deployed
    from kdmlc_jax.storage import files

    chosen = formats_of(flags.to)
    summary = finished.ended(flags.workdir)
    there = [name for name in summary["networks"] if files.exists(flags.workdir / name)]
    if not there:
        raise UserError(f"{flags.workdir}: no network in it, expected student/ or teacher/")
    usual = next((each for each in there if each == summary.get("deployed")), there[0])
    name = choose("--network", flags.network or usual, tuple(there))
    left = [f"{each}/{file}" for each in there for file in ("network.json", "weights.msgpack")]
    for line in finished.check_files(flags.workdir, summary, left):
        print(line, file=sys.stderr)
    networks = {each: deployed.read(flags.workdir / each) for each in [name, *(set(there) - {name})]}
    out = flags.out or flags.workdir / "export" / name
    with files.new_directory(out) as folder:
        write(folder, chosen, networks, name, summary)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def formats_of(text: str) -> list[ModuleType]:
    """The formats that `--to` names, each once.

    Raises:
      UserError: for one that there is not.
    """
    from kdmlc_jax import registry
    from kdmlc_jax.export import formats

    names = [name.strip().replace("-", "_") for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--to: nothing named, expected some of {', '.join(registry.names(formats))}")
    return [registry.get(formats, "--to", name) for name in dict.fromkeys(names)]


def write(
    folder: pathlib.Path, chosen: list[ModuleType], networks: dict[str, "Deployed"], name: str, summary: dict
) -> None:
    """All files of the network `name` into `folder`, each checked; says what it found."""
    from kdmlc_jax.export import checks
    from kdmlc_jax.export.card import card
    from kdmlc_jax.storage import checksums, files

    network, said = networks[name], []
    with tempfile.TemporaryDirectory() as temporary:
        answers = pathlib.Path(temporary, "answers.npz")
        checks.expected(network, answers)
        for form in chosen:
            for file, content in form.encode(network).items():
                with files.atomic_write(folder / file) as opened:
                    opened.write(content)
            result = checks.checked(form, network, folder, answers)
            said.append((form.FILE, ". ".join(filter(None, (result, form.NOTE)))))
            size = (folder / form.FILE).stat().st_size
            print(f"{form.FILE}  {size:,} bytes, {'. '.join(filter(None, (result, form.NOTE)))}")
        print(checks.compared(networks, pathlib.Path(temporary)))
    files.write_json(folder / "network.json", network.about)
    files.write_text(folder / CARD, card(network, name, summary, said))
    files.write_text(folder / checksums.SUMS, checksums.sums(folder))


if __name__ == "__main__":
    guarded(main)
