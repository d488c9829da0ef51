from __future__ import annotations

import base64
from hashlib import sha256

import pytest

from farebox.nostr import nip04, nip44
from farebox.nostr.keys import public_key, shared_x

# A handful of https://github.com/paulmillr/nip44, nip44.vectors.json, v2
CONVERSATIONS = [
    [
        "0000000000000000000000000000000000000000000000000000000000000001",
        "0000000000000000000000000000000000000000000000000000000000000002",
        "c41c775356fd92eadc63ff5a0dc1da211b268cbea22316767095b2871ea1412d",
        "0000000000000000000000000000000000000000000000000000000000000001",
        "a",
        "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABee0G5VSK0/9YypIObAtDKfYEAjD35uVkHyB0F4DwrcNaCXlCWZKaArsGrY6M9wnuTMxWfp1RTN9Xga8no+kF5Vsb",
    ],
    [
        "8f40e50a84a7462e2b8d24c28898ef1f23359fff50d8c509e6fb7ce06e142f9c",
        "b9b0a1e9cc20100c5faa3bbe2777303d25950616c4c6a3fa2e3e046f936ec2ba",
        "d5a2f879123145a4b291d767428870f5a8d9e5007193321795b40183d4ab8c2b",
        "b20989adc3ddc41cd2c435952c0d59a91315d8c5218d5040573fc3749543acaf",
        "ability🤝的 ȺȾ",
        "ArIJia3D3cQc0sQ1lSwNWakTFdjFIY1QQFc/w3SVQ6yvbG2S0x4Yu86QGwPTy7mP3961I1XqB6SFFTzqDZZavhxoWMj7mEVGMQIsh2RLWI5EYQaQDIePSnXPlzf7CIt+voTD",
    ],
    [
        "d5633530f5bcfebceb5584cfbbf718a30df0751b729dd9a789b9f30c0587d74e",
        "b74e6a341fb134127272b795a08b59250e5fa45a82a2eb4095e4ce9ed5f5e214",
        "75fe686d21a035f0c7cd70da64ba307936e5ca0b20710496a6b6b5f573377bdd",
        "e4cd5f7ce4eea024bc71b17ad456a986a74ac426c2c62b0a15eb5c5c8f888b68",
        "مُنَاقَشَةُ سُبُلِ اِسْتِخْدَامِ اللُّغَةِ فِي النُّظُمِ الْقَائِمَةِ وَفِيم يَخُصَّ التَّطْبِيقَاتُ الْحاسُوبِيَّةُ،",
        "AuTNX3zk7qAkvHGxetRWqYanSsQmwsYrChXrXFyPiItoIBsWu1CB+sStla2M4VeANASHxM78i1CfHQQH1YbBy24Tng7emYW44ol6QkFD6D8Zq7QPl+8L1c47lx8RoODEQMvNCbOk5ffUV3/AhONHBXnffrI+0025c+uRGzfqpYki4lBqm9iYU+k3Tvjczq9wU0mkVDEaM34WiQi30MfkJdRbeeYaq6kNvGPunLb3xdjjs5DL720d61Flc5ZfoZm+CBhADy9D9XiVZYLKAlkijALJur9dATYKci6OBOoc2SJS2Clai5hOVzR0yVeyHRgRfH9aLSlWW5dXcUxTo7qqRjNf8W5+J4jF4gNQp5f5d0YA4vPAzjBwSP/5bGzNDslKfcAH",
    ],
]
LONG = [
    "8fc262099ce0d0bb9b89bac05bb9e04f9bc0090acc181fef6840ccee470371ed",
    "326bcb2c943cd6bb717588c9e5a7e738edf6ed14ec5f5344caa6ef56f0b9cff7",
    "x",
    65535,
    "90714492225faba06310bff2f249ebdc2a5e609d65a629f1c87f2d4ffc55330a",
]
UNREADABLE = [
    [
        "unknown encryption version",
        "ca2527a037347b91bea0c8a30fc8d9600ffd81ec00038671e3a0f0cb0fc9f642",
        "#Atqupco0WyaOW2IGDKcshwxI9xO8HgD/P8Ddt46CbxDbrhdG8VmJdU0MIDf06CUvEvdnr1cp1fiMtlM/GrE92xAc1K5odTpCzUB+mjXgbaqtntBUbTToSUoT0ovrlPwzGjyp",
    ],
    [
        "unknown encryption version 0",
        "36f04e558af246352dcf73b692fbd3646a2207bd8abd4b1cd26b234db84d9481",
        "AK1AjUvoYW3IS7C/BGRUoqEC7ayTfDUgnEPNeWTF/reBZFaha6EAIRueE9D1B1RuoiuFScC0Q94yjIuxZD3JStQtE8JMNacWFs9rlYP+ZydtHhRucp+lxfdvFlaGV/sQlqZz",
    ],
    [
        "invalid base64",
        "ca2527a037347b91bea0c8a30fc8d9600ffd81ec00038671e3a0f0cb0fc9f642",
        "Atфupco0WyaOW2IGDKcshwxI9xO8HgD/P8Ddt46CbxDbrhdG8VmJZE0UICD06CUvEvdnr1cp1fiMtlM/GrE92xAc1EwsVCQEgWEu2gsHUVf4JAa3TpgkmFc3TWsax0v6n/Wq",
    ],
    [
        "invalid MAC",
        "cff7bd6a3e29a450fd27f6c125d5edeb0987c475fd1e8d97591e0d4d8a89763c",
        "Agn/l3ULCEAS4V7LhGFM6IGA17jsDUaFCKhrbXDANholyySBfeh+EN8wNB9gaLlg4j6wdBYh+3oK+mnxWu3NKRbSvQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ],
    [
        "invalid MAC",
        "cfcc9cf682dfb00b11357f65bdc45e29156b69db424d20b3596919074f5bf957",
        "AmWxSwuUmqp9UsQX63U7OQ6K1thLI69L7G2b+j4DoIr0oRWQ8avl4OLqWZiTJ10vIgKrNqjoaX+fNhE9RqmR5g0f6BtUg1ijFMz71MO1D4lQLQfW7+UHva8PGYgQ1QpHlKgR",
    ],
    [
        "invalid padding",
        "5254827d29177622d40a7b67cad014fe7137700c3c523903ebbe3e1b74d40214",
        "Anq2XbuLvCuONcr7V0UxTh8FAyWoZNEdBHXvdbNmDZHB573MI7R7rrTYftpqmvUpahmBC2sngmI14/L0HjOZ7lWGJlzdh6luiOnGPc46cGxf08MRC4CIuxx3i2Lm0KqgJ7vA",
    ],
    [
        "invalid padding",
        "fea39aca9aa8340c3a78ae1f0902aa7e726946e4efcd7783379df8096029c496",
        "An1Cg+O1TIhdav7ogfSOYvCj9dep4ctxzKtZSniCw5MwRrrPJFyAQYZh5VpjC2QYzny5LIQ9v9lhqmZR4WBYRNJ0ognHVNMwiFV1SHpvUFT8HHZN/m/QarflbvDHAtO6pY16",
    ],
    [
        "invalid padding",
        "0c4cffb7a6f7e706ec94b2e879f1fc54ff8de38d8db87e11787694d5392d5b3f",
        "Am+f1yZnwnOs0jymZTcRpwhDRHTdnrFcPtsBzpqVdD6b2NZDaNm/TPkZGr75kbB6tCSoq7YRcbPiNfJXNch3Tf+o9+zZTMxwjgX/nm3yDKR2kHQMBhVleCB9uPuljl40AJ8kXRD0gjw+aYRJFUMK9gCETZAjjmrsCM+nGRZ1FfNsHr6Z",
    ],
    ["invalid payload length: 0", "5cd2d13b9e355aeb2452afbd3786870dbeecb9d355b12cb0a3b6e9da5744cd35", ""],
    ["invalid payload length: 4", "d61d3f09c7dfe1c0be91af7109b60a7d9d498920c90cbba1e137320fdd938853", "Ag=="],
    [
        "invalid payload length: 48",
        "873bb0fc665eb950a8e7d5971965539f6ebd645c83c08cd6a85aafbad0f0bc47",
        "AqxgToSh3H7iLYRJjoWAM+vSv/Y1mgNlm6OWWjOYUClrFF8=",
    ],
    [
        "invalid payload length: 92",
        "9f2fef8f5401ac33f74641b568a7a30bb19409c76ffdc5eae2db6b39d2617fbe",
        "Ap/2SEZCVFIhYk6qx7nqJxM6TMI1ZoKmAzrO7vBDVJhhuZXWiM20i/tIsbjT0KxkJs2MZjh1oXNYMO9ggfk7i47WQA==",
    ],
]
NO_KEYS = [
    [
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef",
        "sec1 higher than curve.n",
    ],
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef",
        "sec1 is 0",
    ],
    [
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364139",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "pub2 is invalid, no sqrt, all-ff",
    ],
    [
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        "1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef",
        "sec1 == curve.n",
    ],
]

KEY = nip44.conversation_key(bytes(32))


@pytest.mark.parametrize(("one", "other", "key", "nonce", "text", "payload"), CONVERSATIONS)
def test_a_conversation_is_the_one_of_the_vectors_from_both_sides(
    one: str, other: str, key: str, nonce: str, text: str, payload: str
) -> None:
    mine, theirs = bytes.fromhex(one), bytes.fromhex(other)
    for secret, public in ((mine, public_key(theirs)), (theirs, public_key(mine))):
        assert key == nip44.conversation_key(shared_x(secret, public)).hex()
    assert payload == nip44.encrypt(bytes.fromhex(key), text, nonce=bytes.fromhex(nonce))
    assert text == nip44.decrypt(bytes.fromhex(key), payload)


def test_the_longest_text_is_the_one_of_the_vectors() -> None:
    key, nonce, pattern, repeat, digest = LONG
    payload = nip44.encrypt(bytes.fromhex(key), pattern * repeat, nonce=bytes.fromhex(nonce))
    assert digest == sha256(payload.encode()).hexdigest()
    assert pattern * repeat == nip44.decrypt(bytes.fromhex(key), payload)


@pytest.mark.parametrize(("note", "key", "payload"), UNREADABLE)
def test_what_the_vectors_call_unreadable_is_nothing(note: str, key: str, payload: str) -> None:
    assert nip44.decrypt(bytes.fromhex(key), payload) is None, note


@pytest.mark.parametrize(("secret", "public", "note"), NO_KEYS)
def test_what_the_vectors_call_no_key_is_none(secret: str, public: str, note: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        shared_x(bytes.fromhex(secret), bytes.fromhex(public))


@pytest.mark.parametrize(
    ("length", "padded"), [(1, 32), (32, 32), (33, 64), (65, 96), (257, 320), (1025, 1280), (65_535, 65_536)]
)
def test_a_text_is_padded_so_that_its_length_is_not_told(length: int, padded: int) -> None:
    assert padded == nip44.padded_length(length)


@pytest.mark.parametrize("text", ["", "x" * 65_536, "é" * 32_768])
def test_a_text_that_is_too_short_or_long_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="65,535"):
        nip44.encrypt(KEY, text)


def test_no_two_payloads_are_alike() -> None:
    assert nip44.encrypt(KEY, "x") != nip44.encrypt(KEY, "x")
    assert nip04.encrypt(KEY, "x") != nip04.encrypt(KEY, "x")


def test_one_changed_bit_anywhere_is_noticed() -> None:
    octets = base64.b64decode(nip44.encrypt(KEY, "pay me"))
    for place in range(len(octets)):
        changed = octets[:place] + bytes([octets[place] ^ 1]) + octets[place + 1 :]
        assert nip44.decrypt(KEY, base64.b64encode(changed).decode()) is None


def test_another_key_reads_nothing() -> None:
    assert nip44.decrypt(bytes(32), nip44.encrypt(KEY, "pay me")) is None


# NIP-04: what nostr-sdk 0.45.1 wrote between the secrets 11… and 22…
NIP04 = "EurJonGoVW1DDJqX3B0N4vyiRKcAQBWRwajcdZPn+RU=?iv=XP/4fkmGeJ2mPAlDQ9gp0w=="


def test_the_older_encryption_is_the_one_of_others() -> None:
    key = nip04.conversation_key(shared_x(b"\x22" * 32, public_key(b"\x11" * 32)))
    assert "pay me, please: 21 sat 🏠" == nip04.decrypt(key, NIP04)


@pytest.mark.parametrize("text", ["", "x", "x" * 15, "x" * 16, "häuser 🏠" * 500])
def test_the_older_encryption_reads_what_it_wrote(text: str) -> None:
    assert text == nip04.decrypt(KEY, nip04.encrypt(KEY, text))


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "?iv=",
        NIP04.partition("?")[0],
        NIP04[:-2],
        NIP04 + "====",
        "AAAA" + NIP04[4:].replace("?iv=", "?v="),
        "QUJD?iv=" + NIP04.partition("?iv=")[2],
        "é" + NIP04,
        NIP04 + "?iv=" + NIP04,
        "A" * 131_073,
    ],
)
def test_what_the_older_encryption_can_not_read_is_nothing(payload: str) -> None:
    assert nip04.decrypt(KEY, payload) is None
