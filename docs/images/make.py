"""Take docs/images/dashboard.png: TensorBoard's Custom Scalars page on the logs of the demo.

Run by `make images`, after `make demo`. Needs Chromium (Debian: apt install chromium).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import aiohttp  # Lightning brings it

WIDTH, HEIGHT = 1480, 1125  # two rows of Stability, one of Steps
CHARTS = 19  # on the whole page
PAGE = "/?darkMode=false#custom_scalars&_smoothingWeight=0"
# charts of curves that lie powers of ten apart, by title
LOGARITHMIC = ("sharpness against 2/lr", "effective sharpness against its edge")

DEEP = """
const deep = (selector, root = document) => [...root.querySelectorAll('*')].flatMap(e => [
    ...(e.matches(selector) ? [e] : []), ...(e.shadowRoot ? deep(selector, e.shadowRoot) : [])]);
const cards = ['multi-line', 'margin'].flatMap(kind => deep(`tf-custom-scalar-${kind}-chart-card`));
"""
CHARTS_WITH_CURVES = DEEP + "cards.filter(c => deep('svg path', c.shadowRoot).length > 2).length"
TOGGLE_LOGARITHMIC = (
    DEEP
    + """
for (const card of cards) {
    if (TITLES.includes(deep('tf-card-heading', card.shadowRoot)[0].displayName))
        deep('[icon="line-weight"]', card.shadowRoot)[0].click();
}
"""
)


async def screenshot(address: str, debugger: str) -> bytes:
    """Load `address` in the browser that listens at `debugger`; the page as PNG."""
    async with aiohttp.ClientSession() as session, session.ws_connect(debugger, max_msg_size=0) as ws:
        sent = 0

        async def call(method: str, **params: object) -> dict:
            nonlocal sent
            sent += 1
            await ws.send_json({"id": sent, "method": method, "params": params})
            while (answer := await ws.receive_json()).get("id") != sent:
                pass
            return answer["result"]

        async def evaluate(script: str) -> object:
            result = await call("Runtime.evaluate", expression=f"(() => {{ {_returning(script)} }})()")
            if "exceptionDetails" in result:
                raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
            return result["result"].get("value")

        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        await call("Emulation.setDeviceMetricsOverride", **size)
        await call("Page.navigate", url=address)
        for _ in range(120):
            await asyncio.sleep(0.5)
            if await evaluate(CHARTS_WITH_CURVES) == CHARTS:
                break
        else:
            raise RuntimeError(f"{address} shows no {CHARTS} charts with curves after a minute")
        await evaluate(f"const TITLES = {list(LOGARITHMIC)};" + TOGGLE_LOGARITHMIC)
        await asyncio.sleep(3)  # axes and curves move to their new places
        return base64.b64decode((await call("Page.captureScreenshot"))["data"])


def _returning(script: str) -> str:
    """`script` as the body of a function that returns its last expression."""
    head, last = script.rstrip().rsplit("\n", 1)
    return script if last.startswith("}") else f"{head}\nreturn {last}"


def main() -> None:
    """Start TensorBoard and Chromium, take the picture, stop both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, help="folder of the demo's logs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("dashboard.png"))
    chosen = parser.parse_args()
    if not list(chosen.logs.glob("*/events.out.tfevents.*")):
        sys.exit(f"{chosen.logs} holds no runs: `make demo` makes them")
    browser = (
        shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    if browser is None:
        sys.exit("Chromium is missing: apt install chromium")

    with ExitStack() as stack:
        profile = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        tensorboard = Path(sys.executable).with_name("tensorboard")
        _start(stack, tensorboard, "--logdir", chosen.logs, "--port", port)
        _start(
            stack,
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
        )
        address = f"http://localhost:{port}{PAGE}"
        picture = asyncio.run(_when_ready(port, profile, address))
    chosen.out.write_bytes(picture)
    print(f"wrote {chosen.out}, {len(picture) / 1000:.0f} kB")


async def _when_ready(port: int, profile: Path, address: str) -> bytes:
    async with aiohttp.ClientSession() as session:
        for _ in range(120):
            await asyncio.sleep(0.5)
            try:
                async with session.get(f"http://localhost:{port}/data/runs") as answer:
                    runs = await answer.json()
                browser_port = (profile / "DevToolsActivePort").read_text().split()[0]
                async with session.get(f"http://localhost:{browser_port}/json/list") as answer:
                    pages = [page for page in await answer.json() if page["type"] == "page"]
            except (aiohttp.ClientError, FileNotFoundError, IndexError):
                continue
            if runs and pages:
                return await screenshot(address, pages[0]["webSocketDebuggerUrl"])
    sys.exit("TensorBoard or Chromium did not start in a minute")


def _start(stack: ExitStack, *command: object) -> None:
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)


if __name__ == "__main__":
    main()
