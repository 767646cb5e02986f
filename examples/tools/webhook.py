"""A tool as a webhook: the agent's function `get_order`, answered by any web server, here Python's own.

    PARLEY_TOOL_KEY=whsec_ZXhhbXBsZS1rZXktZm9yLXRlc3RzLW9ubHk= python examples/tools/webhook.py 8787

The agent names it so (see session.yaml):

    tools:
      - type: function
        name: get_order
        route:
          webhook: {url: "http://127.0.0.1:8787/get_order", signingSecretRef: {name: order-tool}}
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from parley_client.tools import WebhookRefused, verify_webhook

KEY = os.environ.get("PARLEY_TOOL_KEY", "")
MAX_BODY = 256 * 1024
ORDERS = {"42": "on its way", "43": "waiting for payment"}


class Orders(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        try:
            call = verify_webhook(KEY, dict(self.headers), self.rfile.read(min(length, MAX_BODY)))
        except WebhookRefused as error:
            self._answer(401, {"error": {"message": str(error)}})
            return
        number = str(call.arguments.get("number", ""))
        if number not in ORDERS:
            self._answer(404, {"error": {"message": f"there is no order {number}"}})
            return
        self._answer(200, {"number": number, "state": ORDERS[number]})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    if not KEY:
        sys.exit("set PARLEY_TOOL_KEY to the signing key of the route's Secret")
    with ThreadingHTTPServer(
        ("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8787), Orders
    ) as server:
        sys.stdout.write(f"serving get_order on http://127.0.0.1:{server.server_address[1]}/get_order\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(130)
