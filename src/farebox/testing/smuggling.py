"""The smuggling corpus: bytes that two servers in a row might read differently, and what has to become of them.

`/free` is free and `/paid` is not. Whatever stands behind the end of a request as its first reader saw it is a call of
`/paid`, so that it shows if a second reader sees the end somewhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

HOST: Final = b"Host: shop.test\r\n"
BAD: Final = (400,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Bytes to say on one connection.

    answers: the statuses of the gateway's answers, in order. Behind a 4xx for what can't be read it closes;
    closes: also behind another. waits: it is in the middle of a request, and waits for its rest.
    """

    name: str
    said: bytes
    answers: tuple[int, ...] = BAD
    closes: bool = False
    waits: bool = False

    @property
    def served(self) -> int:
        """How many of the requests are answered by the service behind the gateway."""
        return self.answers.count(200)


PAID: Final = b"GET /paid HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
COVERING: Final = b"Content-Length: %d\r\n" % len(PAID)
HI: Final = b"2\r\nhi\r\n0\r\n\r\n"


def get(fields: bytes = b"", *, line: bytes = b"GET /free HTTP/1.1", host: bytes = HOST) -> bytes:
    """A request without a body."""
    return line + b"\r\n" + host + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"") -> bytes:
    """A request with a body."""
    return get(fields, line=b"POST /free HTTP/1.1") + body


def _content_lengths() -> Iterator[Scenario]:
    both = b"Content-Length: 6\r\n" + CHUNKED
    yield Scenario(name="CL and TE, CL first", said=post(both, b"0\r\n\r\n" + PAID))
    yield Scenario(name="CL and TE, TE first", said=post(CHUNKED + b"Content-Length: 4\r\n", b"5c\r\n" + PAID))
    yield Scenario(name="CL 0 and TE", said=post(b"Content-Length: 0\r\n" + CHUNKED, HI + PAID))
    yield Scenario(name="two CL, unlike", said=post(b"Content-Length: 0\r\n" + COVERING, PAID))
    yield Scenario(name="two CL, alike", said=post(b"Content-Length: 2\r\nContent-Length: 2\r\n", b"hi" + PAID))
    for name, value in {
        "a list": b"2, 2",
        "an unlike list": b"0, 39",
        "plus": b"+2",
        "minus": b"-2",
        "hexadecimal": b"0x2",
        "a fraction": b"2.0",
        "an exponent": b"2e0",
        "an underscore": b"4_4",
        "two numbers": b"2 2",
        "quoted": b'"2"',
        "nothing": b"",
        "a vertical tab": b"2\x0b",
        "a no-break space": b"2\xa0",
        "a full-width digit": "２".encode(),
        "2 to the 64th": b"18446744073709551616",
        "a letter behind": b"2a",
        "a semicolon": b"2;a=b",
    }.items():
        yield Scenario(name=f"CL is {name}", said=post(b"Content-Length: " + value + b"\r\n", b"hi" + PAID))
    zeros = post(b"Content-Length: 0002 \r\n", b"hi" + PAID)
    yield Scenario(name="CL with zeros in front and a space behind", said=zeros, answers=(200, 402))
    huge = post(b"Content-Length: 9223372036854775807\r\n", b"hi" + PAID)
    yield Scenario(
        name="CL of more than is accepted", said=huge.replace(b"/free", b"/paid", 1), answers=(413,), waits=True
    )
    yield Scenario(name="CL with a space before its colon", said=post(b"Content-Length : 39\r\n", PAID))
    yield Scenario(name="CL with a tab before its colon", said=post(b"Content-Length\t: 39\r\n", PAID))
    yield Scenario(name="CL folded", said=post(b"Content-Length:\r\n 39\r\n", PAID))
    yield Scenario(
        name="Content_Length beside CL",
        said=post(b"Content_Length: 39\r\nContent-Length: 0\r\n", PAID),
        answers=(200, 402),
    )
    yield Scenario(name="GET with a body", said=get(COVERING) + PAID, answers=(200,))


def _transfer_encodings() -> Iterator[Scenario]:
    for name, value in {
        "identity": b"identity",
        "gzip, chunked": b"gzip, chunked",
        "chunked, gzip": b"chunked, gzip",
        "chunked twice": b"chunked, chunked",
        "chunked, identity": b"chunked, identity",
        "a misspelling": b"xchunked",
        "quoted": b'"chunked"',
        "with a parameter": b"chunked;q=1",
        "a vertical tab in front": b"\x0bchunked",
        "a vertical tab behind": b"chunked\x0b",
        "a NUL behind": b"chunked\0",
        "a comma in front": b",chunked",
        "nothing": b"",
        "a bare CR behind": b"chunked\r",
    }.items():
        yield Scenario(name=f"TE is {name}", said=post(b"Transfer-Encoding: " + value + b"\r\n", HI + PAID))
    yield Scenario(name="TE twice", said=post(CHUNKED + CHUNKED, HI + PAID))
    yield Scenario(name="TE chunked, then identity", said=post(CHUNKED + b"Transfer-Encoding: identity\r\n", HI + PAID))
    yield Scenario(name="TE folded", said=post(b"Transfer-Encoding:\r\n chunked\r\n", HI + PAID))
    yield Scenario(name="TE in a folded field", said=post(b"X: y\r\n Transfer-Encoding: chunked\r\n", HI + PAID))
    yield Scenario(name="TE with a space before its colon", said=post(b"Transfer-Encoding : chunked\r\n", HI + PAID))
    yield Scenario(name="TE behind a bare LF", said=post(b"X: y\nTransfer-Encoding: chunked\r\n", HI + PAID))
    yield Scenario(name="TE behind a bare CR", said=post(b"X: y\rTransfer-Encoding: chunked\r\n", HI + PAID))
    old = get(CHUNKED, line=b"POST /free HTTP/1.0") + HI + PAID
    yield Scenario(name="TE in HTTP/1.0", said=old)
    yield Scenario(name="TE in capitals", said=post(b"TRANSFER-ENCODING: CHUNKED\r\n", HI + PAID), answers=(200, 402))
    under = post(b"Transfer_Encoding: chunked\r\nContent-Length: 0\r\n", PAID)
    yield Scenario(name="Transfer_Encoding", said=under, answers=(200, 402))
    hop = post(b"Connection: Content-Length\r\n" + COVERING, PAID)
    yield Scenario(name="CL named in Connection", said=hop, answers=(200,))


def _chunks() -> Iterator[Scenario]:
    for name, body in {
        "a size of 0x2": b"0x2\r\nhi\r\n0\r\n\r\n",
        "a negative size": b"-2\r\nhi\r\n0\r\n\r\n",
        "a size with a plus": b"+2\r\nhi\r\n0\r\n\r\n",
        "a size with a space behind": b"2 \r\nhi\r\n0\r\n\r\n",
        "a size with a space in front": b" 2\r\nhi\r\n0\r\n\r\n",
        "a size with an underscore": b"0_2\r\nhi\r\n0\r\n\r\n",
        "no size": b"\r\nhi\r\n0\r\n\r\n",
        "a size of 2 to the 64th": b"10000000000000002\r\nhi\r\n0\r\n\r\n",
        "a size behind a bare LF": b"2\nhi\r\n0\r\n\r\n",
        "a bare LF behind its data": b"2\r\nhi\n0\r\n\r\n",
        "more data than its size": b"2\r\nhihi\r\n0\r\n\r\n",
        "a bare CR behind its size": b"2\rXhi\r\n0\r\n\r\n",
        "a bare LF in its extension": b"2;\nXX\r\nhi\r\n0\r\n\r\n",
        "a bare CR in its extension": b"2;a\rb\r\nhi\r\n0\r\n\r\n",
        "a CRLF in a quoted extension": b'2;a="\r\n"\r\nhi\r\n0\r\n\r\n',
        "a NUL in its extension": b"2;a=\0\r\nhi\r\n0\r\n\r\n",
        "a last chunk that ends in LF": b"2\r\nhi\r\n0\n\n",
        "a trailer with a space before its colon": b"2\r\nhi\r\n0\r\nX : y\r\n\r\n",
        "a trailer that is none": b"2\r\nhi\r\n0\r\n" + PAID,
        "a folded trailer": b"2\r\nhi\r\n0\r\nX: y\r\n z\r\n\r\n",
    }.items():
        yield Scenario(name=f"a chunk with {name}", said=post(CHUNKED, body + PAID))
    yield Scenario(
        name="a chunk extension", said=post(CHUNKED, b"2;a=b\r\nhi\r\n0;c\r\n\r\n" + PAID), answers=(200, 402)
    )
    zeros = b"0000000000000000000000002\r\nhi\r\n0\r\n\r\n"
    yield Scenario(name="a chunk size with many zeros", said=post(CHUNKED, zeros + PAID), answers=(200, 402))
    framing = b"2\r\nhi\r\n0\r\nContent-Length: 39\r\nTransfer-Encoding: identity\r\nHost: evil\r\n\r\n"
    yield Scenario(name="framing in the trailer", said=post(CHUNKED, framing + PAID))
    yield Scenario(name="a chunk that does not end", said=post(CHUNKED, b"ffffff\r\n" + PAID), answers=(), waits=True)


def _heads() -> Iterator[Scenario]:
    for name, said in {
        "a NUL in a value": get(b"X: a\0b\r\n"),
        "a bare CR in a value": get(b"X: a\rb\r\n"),
        "a bare LF in a value": get(b"X: a\n" + COVERING),
        "a control character in a value": get(b"X: a\x01\r\n"),
        "CRs in front of a CRLF": get(b"X: a\r\r\n"),
        "an empty name": get(b": a\r\n"),
        "a name in another alphabet": get("Höst: a\r\n".encode()),
        "a space in a name": get(b"X Y: a\r\n"),
        "no colon": get(b"Content-Length 39\r\n"),
        "a space in front of the first field": get(host=b" " + HOST),
        "bare LFs throughout": get().replace(b"\r\n", b"\n"),
        "bare CRs throughout": get().replace(b"\r\n", b"\r"),
        "two Hosts": get(HOST),
        "two Hosts, unlike": get(b"Host: evil\r\n"),
        "no Host": get(host=b""),
        "a list of Hosts": get(host=b"Host: shop.test, evil\r\n"),
        "a Host with a path": get(host=b"Host: shop.test/paid\r\n"),
        "a Host with a user": get(host=b"Host: evil@shop.test\r\n"),
        "a Host with a space": get(host=b"Host: shop.test evil\r\n"),
        "a Host with a space before its colon": get(host=b"Host : shop.test\r\n"),
    }.items():
        yield Scenario(name=name, said=said)
    two = get(b"Authorization: L402 a:b\r\nAuthorization: Basic YTpi\r\n")
    yield Scenario(
        name="two Authorizations at a priced path", said=two.replace(b"/free", b"/paid"), answers=(400,), waits=True
    )


def _lines() -> Iterator[Scenario]:
    """First lines."""
    for name, said in {
        "another authority in the target": get(line=b"GET http://evil/free HTTP/1.1"),
        "a user in the target's authority": get(line=b"GET http://evil@shop.test/free HTTP/1.1"),
        "an authority without a path": get(line=b"GET http://shop.test HTTP/1.1"),
        "another scheme": get(line=b"GET ftp://shop.test/free HTTP/1.1"),
        "a target that is an authority": get(line=b"GET shop.test:80 HTTP/1.1"),
        "CONNECT": get(line=b"CONNECT shop.test:80 HTTP/1.1") + PAID,
        "an asterisk": get(line=b"OPTIONS * HTTP/1.1"),
        "a fragment": get(line=b"GET /free#/../paid HTTP/1.1"),
        "a target in another alphabet": get(line="GET /frée HTTP/1.1".encode()),
        "a control character in the target": get(line=b"GET /fr\x01ee HTTP/1.1"),
        "a NUL in the target": get(line=b"GET /free\0 HTTP/1.1"),
        "a space in the target": get(line=b"GET /free /paid HTTP/1.1"),
        "a tab behind the method": get(line=b"GET\t/free HTTP/1.1"),
        "a method in small letters": get(line=b"get /free HTTP/1.1"),
        "a method that nobody knows": get(line=b"SMUGGLE /free HTTP/1.1"),
        "HTTP/0.9": b"GET /free\r\n" + PAID,
        "HTTP/0.9, said aloud": get(line=b"GET /free HTTP/0.9"),
        "HTTP/1.2": get(line=b"GET /free HTTP/1.2"),
        "HTTP/2.0": get(line=b"GET /free HTTP/2.0"),
        "HTTP/1.10": get(line=b"GET /free HTTP/1.10"),
        "http/1.1": get(line=b"GET /free http/1.1"),
        "a space behind the version": get(line=b"GET /free HTTP/1.1 "),
        "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": bytes.fromhex("16030100a50100009f0303"),
    }.items():
        yield Scenario(name=name, said=said)
    yield Scenario(name="empty lines in front", said=b"\r\n\r\n" + get() + PAID, answers=(200, 402))
    yield Scenario(
        name="the same authority in the target",
        said=get(line=b"GET http://shop.test/free HTTP/1.1") + PAID,
        answers=(200, 402),
    )
    yield Scenario(
        name="HTTP/1.0 without a Host",
        said=get(line=b"GET /free HTTP/1.0", host=b"") + PAID,
        answers=(200,),
        closes=True,
    )


def _behind() -> Iterator[Scenario]:
    """What stands behind a whole request."""
    yield Scenario(name="two good ones", said=get() + PAID, answers=(200, 402))
    yield Scenario(name="a good and a bad one", said=get() + b"NONSENSE\r\n\r\n" + PAID, answers=(200, 400))
    bad_body = post(CHUNKED, b"0x2\r\nhi\r\n0\r\n\r\n")
    yield Scenario(
        name="two good ones and one with a bad body", said=get() + PAID + bad_body + PAID, answers=(200, 402, 400)
    )
    yield Scenario(name="a priced and a bad one", said=PAID + get(HOST), answers=(402, 400))
    close = get(b"Connection: close\r\n") + PAID
    yield Scenario(name="more behind a close", said=close, answers=(200,), closes=True)
    expect = post(b"Expect: 100-continue\r\n" + COVERING, PAID)
    yield Scenario(name="a body that did not wait to be asked for", said=expect, answers=(100, 200))
    strange = post(b"Expect: 200-ok\r\nContent-Length: 2\r\n", b"hi" + PAID)
    yield Scenario(name="an Expect that nobody knows", said=strange, answers=(200, 402))
    upgrade = b"Connection: Upgrade\r\nUpgrade: "
    yield Scenario(name="an Upgrade to h2c", said=get(upgrade + b"h2c\r\n") + PAID, answers=(200,), closes=True)
    yield Scenario(
        name="an Upgrade to websocket", said=get(upgrade + b"websocket\r\n") + PAID, answers=(200,), closes=True
    )
    yield Scenario(name="an Upgrade with a body", said=post(upgrade + b"h2c\r\n" + COVERING, PAID))
    yield Scenario(name="an Upgrade with chunks", said=post(upgrade + b"h2c\r\n" + CHUNKED, HI + PAID))
    yield Scenario(name="too many at once", said=get() * 40, answers=(*[200] * 33, 400))


CORPUS: Final = (*_content_lengths(), *_transfer_encodings(), *_chunks(), *_heads(), *_lines(), *_behind())
