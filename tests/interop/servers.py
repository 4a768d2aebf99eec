"""A server on the loopback address whose answers a test writes down."""

import contextlib
import dataclasses
import email.utils
import hashlib
import http.server
import re
import threading
import time

CONTENT = bytes(range(256)) * 2000  # 512 kB: more than fits into the buffers of a connection
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclasses.dataclass
class Answer:
  """What the server sends for one path.

  Attributes:
    content: the bytes of the file.
    status: other than 200 and 206.
    headers: further ones.
    etag: version of the file, as the server calls it.
    ranges: the server continues files; if not, it always sends them whole.
    cuts: after how many bytes the connection is closed, of one request after the other.
    drops: how many of the next requests are not answered at all.
    pause: seconds for which nothing comes after the first 1000 bytes.
    sized: the server says how long the answer is.
  """

  content: bytes = CONTENT
  status: int = 0
  headers: dict = dataclasses.field(default_factory=dict)
  etag: str = ''
  ranges: bool = True
  cuts: list = dataclasses.field(default_factory=list)
  drops: int = 0
  pause: float = 0
  sized: bool = True


class Server:
  """Answers by path, or with `missing`; `asked` are the requests, `(path, value of Range)`."""

  def __init__(self):
    self.answers, self.missing, self.asked = {}, Answer(b'', status=404), []

  def address(self, path):
    return f'http://127.0.0.1:{self.port}{path}'


@contextlib.contextmanager
def running():
  """A started server, stopped at the end."""
  server = Server()

  class Handler(http.server.BaseHTTPRequestHandler):

    def do_GET(self):
      server.asked.append((self.path, self.headers.get('Range')))
      with contextlib.suppress(ConnectionError):
        plain = server.answers.get(self.path.partition('?')[0], server.missing)
        answer = server.answers.get(self.path, plain)
        if answer.drops:
          answer.drops -= 1
          self.close_connection = True
          return
        _send(self, answer)

    do_HEAD = do_GET

    def log_message(self, *_):
      pass

  httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  httpd.daemon_threads = True
  server.port = httpd.server_address[1]
  thread = threading.Thread(target=httpd.serve_forever, kwargs={'poll_interval': 0.01})
  thread.start()
  try:
    yield server
  finally:
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def _send(handler, answer):
  start = _start(handler.headers, answer)
  status = answer.status or (206 if start else 200)
  if start >= len(answer.content) > 0:
    status = 416
  handler.send_response(status)
  body = answer.content[start:] if status != 416 else b''
  headers = {'Content-Type': 'application/octet-stream'}
  if status == 206 and start:
    headers['Content-Range'] = f'bytes {start}-{len(answer.content) - 1}/{len(answer.content)}'
  headers |= answer.headers
  if answer.etag:
    headers['ETag'] = answer.etag
  if answer.sized:
    headers['Content-Length'] = str(len(body))
  for name, value in headers.items():
    handler.send_header(name, value)
  handler.end_headers()
  if handler.command == 'HEAD':
    return
  if answer.pause:
    handler.wfile.write(body[:1000])
    time.sleep(answer.pause)
    body = body[1000:]
  handler.wfile.write(body[:answer.cuts.pop(0)] if answer.cuts else body)


def _start(headers, answer):
  """The first byte that is sent."""
  wanted = re.fullmatch(r'bytes=(\d+)-', headers.get('Range', ''))
  if not wanted or not answer.ranges:
    return 0
  version = answer.etag or answer.headers.get('Last-Modified', '')
  return int(wanted[1]) if headers.get('If-Range', version) == version else 0


def date(seconds):
  """A time as HTTP writes it."""
  return email.utils.formatdate(seconds, usegmt=True)
