"""A REST API that speaks TLS as Patroni's does (patroni/api.py, RestApiServer), and always says the same.

Arguments: certificate, key, file of signers or "", none|optional|required. Prints its port. Without arguments: no TLS.
PORT: on which it listens; SLOW: seconds before a connection is accepted.
"""
import http.server
import os
import socketserver
import ssl
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"state": "running", "role": "primary", "dcs_last_seen": 5}')

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def get_request(self):
        time.sleep(float(os.environ.get("SLOW", 0)))
        return super().get_request()

    def process_request_thread(self, request, client_address):
        if hasattr(request, "context"):
            try:
                request.do_handshake()
            except (OSError, ssl.SSLError):
                self.close_request(request)
                return
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request):
        if hasattr(request, "context"):
            try:
                request.unwrap()
            except Exception:
                pass
        super().shutdown_request(request)

    def handle_error(self, *_):
        pass


server = Server(("127.0.0.1", int(os.environ.get("PORT", 0))), Handler)
if sys.argv[1:]:
    certificate, key, signers, verify = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=signers or None)
    context.load_cert_chain(certificate, key)
    context.verify_mode = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}[verify]
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_port, flush=True)
server.serve_forever()
