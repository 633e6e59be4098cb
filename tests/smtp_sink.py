"""A real SMTP server for tests: it takes mail, writes down each step, and misbehaves when it is told to.

Each step is a JSON object on a line of standard output. Orders are JSON objects on lines of standard input, each
answered by a step "done" with the order's id. The end of standard input ends the server, so it dies with its parent.

Beside aiosmtpd's own commands only DATA is written anew, for what a test has to know or to disturb: when the 354 was
sent, when the final dot was read, which reply was chosen, and whether it could be written.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import logging
import os
import re
import ssl
import sys
import time

from aiosmtpd.smtp import SMTP, AuthResult, TLSSetupException, syntax

# Where DATA ends: as the standard says it, and as lax servers have it.
TERMINATORS = {"strict": [b"\r\n.\r\n"], "lf": [b"\n.\n", b"\n.\r\n"], "cr": [b"\r.\r", b"\r.\r\n"]}

rules = []  # in order; the first that fits is obeyed, and goes when it has been obeyed `times` times
held = []  # (step, recipients, future)
terminators = list(TERMINATORS["strict"])
excluded = []  # ways to log in that are not offered


def record(step, **facts):
    print(json.dumps({"at": time.monotonic(), "step": step, **facts}), flush=True)


def take_rule(step, recipients):
    for rule in rules:
        fits = rule["step"] == step and (rule.get("to") is None or rule["to"] in recipients)
        if fits:
            if rule.get("times") is not None:
                rule["times"] -= 1
                if rule["times"] == 0:
                    rules.remove(rule)
            return rule
    return None


class Dropped(asyncio.CancelledError):
    """The connection was dropped on purpose; aiosmtpd ends its task quietly at this kind of error."""


class Sink(SMTP):
    connections = 0

    def connection_made(self, transport):
        if self.transport is None:  # not the second time, after STARTTLS
            Sink.connections += 1
            self.number = Sink.connections
            self.note("connected")
        super().connection_made(transport)

    def connection_lost(self, error):
        self.note("lost")
        super().connection_lost(error)

    def note(self, step, **facts):
        record(step, connection=self.number, **facts)

    async def obey(self, step, recipients=()):
        """Does what a rule says for this step; true if the step is answered with that."""
        rule = take_rule(step, recipients)
        if rule is None:
            return False
        if rule.get("delay"):
            await asyncio.sleep(rule["delay"])
        if rule.get("hold"):
            future = asyncio.get_running_loop().create_future()
            held.append((step, tuple(recipients), future))
            self.note("held", at_step=step, recipients=list(recipients))
            try:
                await future
            finally:
                held.remove((step, tuple(recipients), future))
        if rule.get("reply") and rule.get("drip"):
            self.note("dripping", at_step=step)
            for byte in (rule["reply"] + "\r\n").encode("utf-8", "surrogateescape"):
                self.transport.write(bytes([byte]))
                await asyncio.sleep(rule["drip"])
            return True
        if rule.get("reply") and rule.get("drop"):
            await self.push(rule["reply"])
            self.note("dropped", at_step=step, recipients=list(recipients))
            self.transport.abort()
            raise Dropped()
        if rule.get("drop"):
            self.note("dropped", at_step=step, recipients=list(recipients))
            self.transport.abort()
            raise Dropped()
        if rule.get("reply"):
            await self.push(rule["reply"])
            if rule["reply"].startswith("421"):
                self.transport.close()
                raise Dropped()
            return True
        return False

    async def push(self, status):
        text = status if isinstance(status, str) else status.decode("utf-8", "replace")
        written = not (self.transport is None or self.transport.is_closing())
        try:
            await super().push(status)
        except (ConnectionError, AttributeError):
            written = False
            raise
        finally:
            self.note("reply", reply=text, written=written)

    async def _handle_client(self):
        if await self.obey("connect"):
            self.transport.close()
            return
        await super()._handle_client()

    @syntax("EHLO hostname")
    async def smtp_EHLO(self, hostname):
        self.note("ehlo", argument=hostname, tls=self.transport.get_extra_info("sslcontext") is not None)
        if not await self.obey("ehlo"):
            await super().smtp_EHLO(hostname)

    @syntax("STARTTLS", when="tls_context")
    async def smtp_STARTTLS(self, arg):
        self.note("starttls")
        if not await self.obey("starttls"):
            await super().smtp_STARTTLS(arg)

    @syntax("AUTH <mechanism>")
    async def smtp_AUTH(self, arg):
        self.note("auth", argument=(arg or "").split(" ")[0])
        if not await self.obey("auth"):
            await super().smtp_AUTH(arg)

    @syntax("MAIL FROM: <address>", extended=" [SP <mail-parameters>]")
    async def smtp_MAIL(self, arg):
        self.note("mail", argument=arg)
        if not await self.obey("mail"):
            await super().smtp_MAIL(arg)

    @syntax("RCPT TO: <address>", extended=" [SP <mail-parameters>]")
    async def smtp_RCPT(self, arg):
        address = re.search(r"<([^>]*)>", arg or "")
        recipients = [address.group(1)] if address else []
        self.note("rcpt", argument=arg, recipients=recipients)
        if not await self.obey("rcpt", recipients):
            await super().smtp_RCPT(arg)

    @syntax("RSET")
    async def smtp_RSET(self, arg):
        self.note("rset")
        await super().smtp_RSET(arg)

    @syntax("QUIT")
    async def smtp_QUIT(self, arg):
        self.note("quit")
        await super().smtp_QUIT(arg)

    @syntax("DATA")
    async def smtp_DATA(self, arg):
        recipients = list(self.envelope.rcpt_tos)
        self.note("data", recipients=recipients)
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        if not recipients:
            await self.push("503 Error: need RCPT command")
            return
        if await self.obey("data", recipients):
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")

        content = await self.read_content(recipients)
        identifier = re.search(rb"^Message-ID:\s*<([^>]*)>", content, re.IGNORECASE | re.MULTILINE)
        facts = {
            "recipients": recipients,
            "sender": self.envelope.mail_from,
            "message_id": identifier.group(1).decode("ascii", "replace") if identifier else None,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        self.note("dot", content=base64.b64encode(content).decode("ascii"), **facts)
        try:
            answered = await self.obey("dot", recipients)
        except Dropped:
            raise
        except asyncio.CancelledError:
            # The client left while its answer was held back. The mail was read whole, so it is accepted all the same.
            self.note("verdict", reply="250 OK", **facts)
            raise
        self._set_post_data_state()
        if not answered:
            self.note("verdict", reply="250 OK", **facts)
            await self.push("250 OK")

    async def read_content(self, recipients):
        """Reads up to the final dot; what came behind it is the client's next command."""
        buffer = bytearray(b"\r\n")  # the line break before the first line
        while True:
            ends = [(buffer.find(mark), mark) for mark in terminators]
            ends = [(index, -len(mark), mark) for index, mark in ends if index >= 0]
            if ends:
                index, _, mark = min(ends)
                break
            chunk = await self._reader.read(65536)
            if not chunk:
                raise Dropped()
            if len(buffer) == 2:
                self.note("body", recipients=recipients)
                await self.obey("body", recipients)
            buffer += chunk
        behind = bytes(buffer[index + len(mark):])
        if behind:
            self.note("behind", content=base64.b64encode(behind).decode("ascii"))
            self._reader._buffer[:0] = behind  # StreamReader has no public way to put back
        content = bytes(buffer[2:index]) + (b"\r\n" if index > 2 else b"")
        return re.sub(rb"(\A|\r\n)\.", rb"\1", content)


def carry_out(order):
    match order["do"]:
        case "rule":
            rules.append(order["rule"])
        case "forget":
            rules.clear()
        case "lax":
            terminators[:] = [mark for name in order["ends"] for mark in TERMINATORS[name]]
        case "exclude":
            excluded[:] = order["mechanisms"]
        case "nothing":
            pass
        case "release":
            for step, recipients, future in held:
                fits = order.get("step") in (None, step) and (order.get("to") is None or order["to"] in recipients)
                if fits and not future.done():
                    future.set_result(None)
        case other:
            raise ValueError(f"unknown order {other!r}")


async def take_orders():
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        carry_out(order)
        record("done", id=order["id"])
    os._exit(0)


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", choices=["starttls", "implicit"])
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--login", help="user:password; then mail is taken after AUTH only")
    options = parser.parse_args()

    logging.basicConfig(level=logging.ERROR)
    # A client that does not trust the certificate is what some tests are about.
    logging.getLogger("mail.log").addFilter(
        lambda line: not (line.exc_info and isinstance(line.exc_info[1], TLSSetupException))
    )
    context = None
    if options.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.certificate, options.key)

    def authenticate(server, session, envelope, mechanism, login):
        given = f"{login.login.decode()}:{login.password.decode()}"
        return AuthResult(success=given == options.login, handled=False)

    def serve():
        return Sink(
            object(),
            enable_SMTPUTF8=True,
            hostname="sink.example",
            tls_context=context if options.tls == "starttls" else None,
            auth_required=options.login is not None,
            auth_require_tls=options.tls == "starttls",
            authenticator=authenticate if options.login else None,
            auth_exclude_mechanism=list(excluded),
            loop=asyncio.get_running_loop(),
        )

    implicit = context if options.tls == "implicit" else None
    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", options.port, ssl=implicit)
    record("listening", port=server.sockets[0].getsockname()[1])
    await take_orders()


asyncio.run(main())
