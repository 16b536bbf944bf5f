"""The example page: an exported network answers in a browser as it does here. Needs Chromium and onnxruntime-web."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import untrained
from PIL import Image

from kdmlc_jax.export.formats import onnx

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ORT = os.environ.get("KDMLC_ORT_WEB", "")
PAGE = Path(__file__).parent.parent / "docs" / "browser" / "index.html"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.skipif(
    not CHROMIUM or not ORT, reason="no Chromium, or KDMLC_ORT_WEB does not name onnxruntime-web's dist"
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_page_answers_as_here(channels, tmp_path):
    """Protects who ships to browsers: the same probabilities, to the last digit shown; class names are no markup."""
    names = ["<b>cat</b>", "dog & co", "owl"]
    network = untrained.deployed("cnn16", (16, 12, channels), names)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / onnx.FILE).write_bytes(onnx.encode(network)[onnx.FILE])
    (tmp_path / "model" / "network.json").write_text(json.dumps(network.about))
    shutil.copy(PAGE, tmp_path)
    (tmp_path / "ort").symlink_to(Path(ORT).resolve())
    image = np.random.default_rng(1).integers(0, 256, (16, 12, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    seen = np.asarray(Image.fromarray(image).convert("L"))[..., None] if channels == 1 else image
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/index.html?image=photo.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [CHROMIUM, *flags, "--virtual-time-budget=30000", "--dump-dom", address]
        page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        server.shutdown()
    cells = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", page)
    assert cells, page[:2000]
    want = untrained.answers(network, seen[None])[0]
    escaped = [name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for name in names]
    assert [name for name, _ in cells] == [escaped[place] for place in np.argsort(-want)]
    np.testing.assert_allclose([float(p) for _, p in cells], np.sort(want)[::-1], atol=2e-6)
