#!/usr/bin/env python3
"""Looks at the site in headless Chromium: check.py FOLDER [CHROMIUM]

Every page is loaded from a server of this program, light and dark, at 400 and 1,200 pixels: every
link and its anchor leads somewhere inside of the site, nothing is wider than the page, pictures
load, the console has no error, and nothing is asked of another host. Texts have enough contrast.
The search finds a page. Chromium is driven through its pipe, so no other program is needed.
"""
import functools, http.server, json, os, shutil, signal, subprocess, sys, tempfile, threading, urllib.parse

folder = os.path.abspath(sys.argv[1])
complaints = 0


def complain(text):
    global complaints
    complaints += 1
    print(text)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):  # the browser goes to the next page before it has all of this one
        pass


def serve():
    handler = functools.partial(Handler, directory=folder)
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "http://127.0.0.1:%d/" % server.server_port


class Browser:
    """The DevTools protocol over descriptors 3 and 4: JSON with a NUL behind each message."""

    def __init__(self, program):
        self.room = tempfile.mkdtemp(prefix="moonfork-site-")
        theirs_in, self.out = os.pipe()
        self.input, theirs_out = os.pipe()
        command = [program, "--headless", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run",
                   "--disable-dev-shm-usage", "--user-data-dir=" + self.room, "--disable-background-networking",
                   "--disable-component-update", "--hide-scrollbars", "about:blank"]
        command.insert(1, "--no-sandbox")  # it needs more rights than root or a container may have
        script = 'exec "$@" 3<&%d 4>&%d' % (theirs_in, theirs_out)
        self.process = subprocess.Popen(["bash", "-c", script, "bash"] + command, pass_fds=(theirs_in, theirs_out),
                                        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        env=dict(os.environ, HOME=self.room), start_new_session=True)
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.rest, self.events, self.session = 0, b"", [], None

    def receive(self):
        while b"\0" not in self.rest:
            more = os.read(self.input, 1 << 16)
            if not more:
                sys.exit("Chromium has ended")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.out, json.dumps(request).encode() + b"\0")
        while True:
            message = self.receive()
            if message.get("id") == self.number:
                if "error" in message:
                    sys.exit("%s: %s" % (method, message["error"]["message"]))
                return message["result"]
            self.events.append(message)

    def wait(self, name):
        for i, event in enumerate(self.events):
            if event.get("method") == name:
                return self.events.pop(i)
        while True:
            event = self.receive()
            if event.get("method") == name:
                return event
            self.events.append(event)

    def open_tab(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(domain + ".enable")

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            sys.exit("in the page: %s" % answer["exceptionDetails"])
        return answer["result"].get("value")

    def show(self, width, scheme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def load(self, url):
        self.events = []
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        shutil.rmtree(self.room, ignore_errors=True)


LOOK = """(() => {
  for (const details of document.querySelectorAll("details")) details.open = true
  const seen = {links: [], ids: [], pictures: [], wide: [], pale: []}
  for (const a of document.querySelectorAll("a[href]")) seen.links.push(a.href)
  for (const e of document.querySelectorAll("[id]")) seen.ids.push(e.id)
  for (const i of document.images) if (!i.complete || i.naturalWidth === 0) seen.pictures.push(i.src)
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth > width) {
    for (const e of document.body.querySelectorAll("*")) {
      if (e.closest("pre, .wide, .skip")) continue
      if (e.getBoundingClientRect().right > width + 1) seen.wide.push(e.tagName + " " + e.textContent.slice(0, 60))
    }
    if (seen.wide.length === 0) seen.wide.push("the page")
  }
  const light = color => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map(v => {
      v /= 255
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
  }
  const back = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor
      if (!/, 0\\)$/.test(color)) return color
    }
    return "rgb(255, 255, 255)"
  }
  for (const e of document.body.querySelectorAll("p, li, td, th, a, code, h1, h2, h3, summary, span")) {
    const a = light(getComputedStyle(e).color), b = light(back(e))
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    if (contrast < 4.5) seen.pale.push(e.tagName + " " + e.textContent.slice(0, 40) + " " + contrast.toFixed(1))
  }
  return seen
})()"""


def check_page(browser, base, path, width, scheme, anchors):
    browser.show(width, scheme)
    browser.load(base + path)
    seen = browser.evaluate(LOOK)
    where = "%s at %d pixels, %s: " % (path, width, scheme)
    for event in browser.events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            complain(where + params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Runtime.exceptionThrown":
            complain(where + params["exceptionDetails"].get("text", "an exception"))
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith((base, "data:")):
            complain(where + "asks for " + params["request"]["url"])
    for kind, said in (("pictures", "the picture %s does not load"), ("wide", "wider than the page: %s"),
                       ("pale", "too little contrast: %s")):
        for thing in seen[kind][:5]:
            complain(where + said % thing)
    anchors[path] = (seen["links"], set(seen["ids"]))


def check_links(base, anchors):
    for path, (links, _) in sorted(anchors.items()):
        for link in sorted(set(links)):
            if not link.startswith(base):
                if link.startswith("file:"):
                    complain("%s: a link to %s" % (path, link))
                continue
            target, _, anchor = urllib.parse.unquote(link[len(base):]).partition("#")
            target = target.partition("?")[0] or "index.html"
            if not os.path.isfile(os.path.join(folder, target)):
                complain("%s: a link to %s, which is not there" % (path, target))
            elif anchor and target in anchors and anchor not in anchors[target][1]:
                complain("%s: a link to %s#%s, and there is no such place" % (path, target, anchor))


def check_search(browser, base):
    browser.show(1200, "light")
    browser.load(base + "search.html?q=leash")
    found = browser.evaluate("""new Promise(done => {
      const results = document.getElementById("mkdocs-search-results"), began = Date.now()
      const look = () => {
        const links = [...results.querySelectorAll("a")].map(a => a.getAttribute("href"))
        if (links.length > 0 || Date.now() > began + 20000) done(links); else setTimeout(look, 50)
      }
      look()
    })""")
    if not any("lua-api" in link for link in found):
        complain("the search for 'leash' gives %s" % found)


def main():
    program = sys.argv[2] if len(sys.argv) > 2 else shutil.which("chromium") or "chromium"
    pages = sorted(os.path.relpath(os.path.join(where, name), folder) for where, _, names in os.walk(folder)
                   for name in names if name.endswith(".html"))
    base = serve()
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("it takes more than ten minutes"))
    signal.alarm(600)
    browser = Browser(program)
    anchors = {}
    try:
        browser.open_tab()
        for path in pages:
            for width, scheme in ((400, "light"), (400, "dark"), (1200, "light")):
                check_page(browser, base, path, width, scheme, anchors)
        check_search(browser, base)
    finally:
        browser.close()
    check_links(base, anchors)
    print("%d pages, %d complaints" % (len(pages), complaints))
    sys.exit(complaints != 0)


main()
