"""A headless Chromium for the tests of the page, driven by chromedriver over its HTTP protocol (W3C WebDriver)."""

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "needs Chromium and chromedriver"

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,1000"),
)


class Browser:
    """A window that receives keys and clicks like a user's. Close it after use."""

    def __init__(self, profile: Path):
        self.process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        started = next(line for line in self.process.stdout if "started successfully on port" in line)
        self.root = f"http://127.0.0.1:{started.rstrip().rstrip('.').split()[-1]}"
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.root += f"/session/{session['sessionId']}"

    def close(self) -> None:
        self._ask("DELETE", "")
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()

    def open(self, path: Path) -> None:
        self._ask("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: object) -> object:
        """Return the result of a script, as JSON; its arguments are ``arguments[0]`` and so on."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        centred = {"block": "center", "behavior": "instant"}
        self.run("document.querySelector(arguments[0]).scrollIntoView(arguments[1])", selector, centred)
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{next(iter(element.values()))}/click", {})

    def press(self, key: str) -> None:
        """Press a key in the focused element."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def prefer(self, scheme: str) -> None:
        """Set the system's colours: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def log(self) -> list[str]:
        """Return the messages of the console since the last call, with errors and warnings."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def devtools(self, command: str, parameters: dict[str, object]) -> object:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _ask(self, method: str, path: str, content: object = None) -> object:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.root + path, body, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
