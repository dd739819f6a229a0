"""No secret is left in text that leaves a process, however the text quotes it; and nothing else is lost."""

import json
from urllib.parse import quote

import pytest

from cluster.redaction import is_secret_name, redacted

PLAIN = "8f1c0d77e2"
AWKWARD = "pa ss\\wo'rd\"/+&é\n-----line two of it"


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "RAY_AUTH_TOKEN",
        "SSH_PRIVATE_KEY",
        "db_passwd",
    ],
)
def test_the_value_of_a_secret_variable_is_hidden_in_every_form(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for value in (PLAIN, AWKWARD):
        monkeypatch.setenv(name, value)
        for form in (value, repr(value), json.dumps(value), json.dumps({"env": {name: value}}), quote(value, safe="")):
            text = redacted(f"before {form} after")
            assert text.startswith("before ")
            assert text.endswith(" after")
            assert "***" in text
            assert not any(part in text for part in (PLAIN, "pa ss", "pa%20ss", "line two"))
    assert "line two" not in redacted(AWKWARD.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_AUTH_TOKEN_PATH", "/home/ann/token"),
        ("GOOGLE_CREDENTIALS_FILE", "/home/ann/key.json"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("HOME", "/home/ann"),
    ],
)
def test_places_and_words_are_not_secrets(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"{value} is said") == f"{value} is said"


def test_the_password_of_an_address_is_hidden_alone_and_in_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://ann:tr0ub%2Fador@db.example.org/x")
    assert redacted("postgres://ann:tr0ub%2Fador@db.example.org/x") == "postgres://***@db.example.org/x"
    assert redacted("login with tr0ub/ador failed") == "login with *** failed"
    assert redacted("http://bob:other@proxy:1") == "http://***@proxy:1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
        ("https://b/x?X-Amz-Signature=0a1b2c&X-Amz-Expires=9", "https://b/x?X-Amz-Signature=***&X-Amz-Expires=9"),
        ("https://b/x?x-amz-security-token=IQoJb3Jp%2B", "https://b/x?x-amz-security-token=***"),
        ("{'Authorization': 'Bearer abc.def'}", "{'Authorization': 'Bearer ***'}"),
        ("token hf_" + "a" * 34, "token ***"),
        ("token ghp_" + "b" * 36, "token ***"),
    ],
)
def test_what_looks_like_a_credential_is_hidden_wherever_it_came_from(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "label:wide: shard 3 is tried again: ValueError: nan for class 3 in row 0",
        "s3://bucket/prefix/labels/wide-0123456789abcdef/data/0-8.arrow",
        "blake3 af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "http://127.0.0.1:8265: no Ray dashboard answers",
        '{"where": "job.yaml:3", "key": "a@b"}',
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_redacted_json_is_json_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", AWKWARD)
    value = {"message": f'"Bearer x\\" {AWKWARD} http://a:b@c "', "n": 1}
    found = json.loads(redacted(json.dumps(value)))
    assert found["n"] == 1
    assert "line two" not in found["message"]


def test_names_of_secrets_are_told_from_names_of_their_places() -> None:
    assert is_secret_name("HF_TOKEN")
    assert not is_secret_name("RAY_AUTH_TOKEN_PATH")
    assert not is_secret_name("AWS_REGION")
