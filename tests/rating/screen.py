"""A page in headless Chromium, and everything on it that should not have been."""

import os
import time
from pathlib import Path


SHOTS = os.environ.get("JSAEVAL_SCREENSHOTS")  # a folder for pictures of what the tests see


class Screen:
    """A page, and everything on it that should not have been."""

    def __init__(self, browser, width=1300, height=900, **options):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page, self.wrong = self.context.new_page(), []
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", lambda own: own.type in ("error", "warning") and self.wrong.append(own.text))
        self.page.on("dialog", lambda own: (self.wrong.append(f"dialog: {own.message}"), own.accept()))
        self.page.on("request", lambda own: self._local(own.url))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (own) => console.error('policy', own.effectiveDirective))"
        )

    def _local(self, url):
        if not url.startswith(("http://127.0.0.1:", "data:")):
            self.wrong.append(f"request: {url}")

    def keys(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def write(self, key, text):
        self.keys(key)
        self.page.keyboard.type(text)
        self.keys("Control+Enter")

    def until(self, expression):
        """Playwright's own way to wait evaluates strings in the page, which the policy forbids."""
        end = time.monotonic() + 20
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def at(self, n):
        self.until(f"document.querySelector('#page')?.dataset.n === '{n}'")

    def saved(self):
        self.until("['Saved', ''].includes(document.querySelector('#status').textContent)")

    def focus(self):
        return self.page.evaluate("document.activeElement.id")

    def shot(self, name):
        if SHOTS:
            self.page.screenshot(path=Path(SHOTS) / f"{name}.png")

    def fits(self):
        """Nothing is wider than the window, and nothing visible sticks out of it."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# Texts whose color has a contrast below 4.5 against the first background behind them that is not transparent.
CONTRASTS = """() => {
  const channel = (own) => (own /= 255) <= 0.04045 ? own / 12.92 : ((own + 0.055) / 1.055) ** 2.4;
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const low = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const own = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !own.checkVisibility() || own.closest('noscript, script')) continue;
    let behind = own;
    while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const back = rgb(getComputedStyle(behind ?? document.body).backgroundColor);
    const [a, b] = [light(rgb(getComputedStyle(own).color)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${own.className} ${own.tagName} ${walk.currentNode.data}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""
