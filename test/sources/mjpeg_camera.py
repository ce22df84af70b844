"""A camera on the network: MJPEG over HTTP, as IP cameras give it, with numbered frames.

OpenCV opens its address as it opens any camera, through FFmpeg.
"""

import contextlib
import importlib.util
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2

_spec = importlib.util.spec_from_file_location("numbers", Path(__file__).with_name("conftest.py"))
_numbers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_numbers)
number_of = _numbers.number_of


class MjpegCamera:
    """Serves the frame that is due by the clock; `unplug` and `plug` as one likes."""

    def __init__(self, rate_hz=30.0, phase_s=0.0, size=(256, 64)):
        self.rate_hz, self.phase_s = rate_hz, phase_s
        self.sent_ns = {}
        self._jpegs = [
            cv2.imencode(".jpg", _numbers.numbered(k, *size))[1].tobytes() for k in range(512)
        ]
        self._connections = set()
        self._paused = threading.Event()
        self._server = None
        # Whole seconds, so that cameras of one rate are in step but for their phase.
        self._start = float(int(time.monotonic()))
        self.port = 0
        self.plug()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/video.mjpg"

    def plug(self):
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words):
                pass

            def do_GET(self):
                camera._connections.add(self.connection)
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    camera._send(self.wfile)
                except OSError:
                    pass
                finally:
                    camera._connections.discard(self.connection)

        ThreadingHTTPServer.allow_reuse_address = True
        ThreadingHTTPServer.daemon_threads = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def unplug(self):
        """Connections break and nobody answers."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self, hanging):
        """The connection stays, but nothing comes."""
        (self._paused.set if hanging else self._paused.clear)()

    def _send(self, file):
        number = 0
        while self._server is not None:
            number += 1
            due = self._start + self.phase_s + number / self.rate_hz
            late = time.monotonic() - due
            if late > 0.5 / self.rate_hz:
                continue
            time.sleep(max(0.0, -late))
            if self._paused.is_set():
                continue
            jpeg = self._jpegs[number % len(self._jpegs)]
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.sent_ns[number % len(self._jpegs)] = time.time_ns()
            file.write(head.encode() + jpeg + b"\r\n")
            file.flush()
