"""The endpoint judge against a real HTTP server on loopback that misbehaves in every way asked of it."""

import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.errors import ConfigurationError, EvaluationError
from data.preferences.messages import PreferenceRow
from evaluation.answers import Answer
from evaluation.judges.chat_api import ApiSettings
from evaluation.judges.contract import JudgeRequest
from evaluation.judges.endpoint import EndpointChatModel, Price
from evaluation.judges.pairwise import PairwiseJudge


class Server:
    """A server whose replies are made by a function of the request's body; it counts what it is asked."""

    def __init__(self, reply, *, models=("judge",)):
        self.reply, self.models = reply, models
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.keys.append(self.headers.get("Authorization"))
                self.send(200, {"data": [{"id": name} for name in server.models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append(body)
                    server.keys.append(self.headers.get("Authorization"))
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                    number = len(server.requests)
                self.send(*server.reply(body, number))
                with server.lock:
                    server.at_once -= 1

            def send(self, status, body, headers=()):
                content = json.dumps(body).encode()
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@contextmanager
def serve(reply, **settings):
    server = Server(reply, **settings)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def completion(text, *, top=None, model="judge"):
    choice = {"message": {"role": "assistant", "content": text}}
    if top is not None:
        entries = [{"token": token, "logprob": math.log(p)} for token, p in top.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": entries}]}
    return {"model": model, "choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 1}}


def open_model(server, *, pauses=None, attempts=3, **settings):
    api = ApiSettings(url=server.url, model="judge", key_variable="TEST_JUDGE_KEY", attempts=attempts)
    return EndpointChatModel(api, pause=(pauses if pauses is not None else []).append, **settings)


def requests(count=1):
    return [
        JudgeRequest(
            PreferenceRow(f"p{i}", f"question {i}", None, None, ""),
            Answer(f"one {i}", 2, "stop"),
            Answer(f"two {i}", 2, "stop"),
        )
        for i in range(count)
    ]


def verdicts(model, count=1, **style):
    return dict(PairwiseJudge(model, **style).judge(requests(count)))


def test_preference_is_the_probability_of_a_against_b():
    with serve(
        lambda body, _: (200, completion("A", top={"A": 0.5, " A": 0.1, "B": 0.2, "C": 0.2}))
    ) as server:
        verdict = verdicts(open_model(server))[0]
    assert verdict.preference == pytest.approx(0.6 / 0.8)
    assert verdict.logprobs["A"] == pytest.approx(math.log(0.6))


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("A", 1.0),
        (" B.\n", 0.0),
        ("**A**", 1.0),
        ("Both are fine", None),
        ("A is worse than B", None),
        ("", None),
    ],
)
def test_a_reply_without_logprobs_counts_only_as_one_letter(text, preference):
    with serve(lambda body, _: (200, completion(text))) as server:
        assert verdicts(open_model(server))[0].preference == preference


@pytest.mark.parametrize(
    ("text", "preference"),
    [("Good.\n[[A]]", 1.0), ("[[B]]", 0.0), ("equal [[C]]", 0.5), ("[[A]] or [[B]]", None), ("A", None)],
)
def test_a_reasoned_reply_counts_by_its_one_verdict(text, preference):
    with serve(lambda body, _: (200, completion(text))) as server:
        assert verdicts(open_model(server), style="reasoned")[0].preference == preference


def test_letters_that_hold_almost_no_mass_are_no_verdict():
    with serve(lambda body, _: (200, completion("I", top={"I": 0.97, "A": 0.02, "B": 0.01}))) as server:
        assert verdicts(open_model(server))[0].preference is None


def test_replies_are_kept_and_never_paid_for_twice():
    with serve(lambda body, _: (200, completion("A", top={"A": 0.9, "B": 0.1}))) as server:
        first = verdicts(open_model(server), 5)
        assert verdicts(open_model(server), 5) == first
    assert len(server.requests) == 5


def test_an_endpoint_that_goes_down_loses_nothing():
    def reply(body, number):
        return (200, completion("A")) if number <= 3 else (503, {"error": {"message": "overloaded"}})

    with serve(reply) as server, pytest.raises(EvaluationError) as failure:
        verdicts(open_model(server, concurrency=1), 6)
    assert "503: overloaded; 3 attempts" in str(failure.value)
    assert "3 of 6 replies are kept" in str(failure.value)


def test_every_call_has_its_attempts_again():
    def reply(body, number):
        return (500, {}) if number == 2 else (200, completion("A"))

    with serve(reply) as server:
        model = open_model(server)
        verdicts(model, 1)
        assert len(verdicts(model, 2)) == 2


def test_the_same_endpoint_continues_with_what_is_missing():
    down = threading.Event()
    down.set()

    def reply(body, number):
        return (500, {}) if down.is_set() and number > 3 else (200, completion("A"))

    with serve(reply) as server:
        model = open_model(server, concurrency=1)
        with pytest.raises(EvaluationError):
            verdicts(model, 6)
        down.clear()
        before = len(server.requests)
        assert len(verdicts(open_model(server), 6)) == 6
        assert len(server.requests) - before == 3


def test_a_rate_limit_is_waited_out_as_long_as_the_server_asks():
    def reply(body, number):
        if number == 1:
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "17"}
        return 200, completion("B")

    pauses: list[float] = []
    with serve(reply) as server:
        assert verdicts(open_model(server, pauses=pauses))[0].preference == 0.0
    assert pauses == [17.0]


def test_pauses_grow_and_end():
    pauses: list[float] = []
    with serve(lambda body, _: (500, {})) as server, pytest.raises(EvaluationError, match="6 attempts"):
        verdicts(open_model(server, pauses=pauses, attempts=6))
    assert len(pauses) == 5
    # Each is drawn from the upper half of a bound that doubles.
    assert all(2.0**i / 2 <= pause <= 2.0**i for i, pause in enumerate(pauses))


def test_a_rate_limit_that_stays_says_so():
    with (
        serve(lambda body, _: (429, {"error": "quota"})) as server,
        pytest.raises(EvaluationError, match=r"is limiting the rate \(status 429: quota"),
    ):
        verdicts(open_model(server))


def test_a_wrong_key_is_named_by_its_variable_and_never_shown(monkeypatch):
    monkeypatch.setenv("TEST_JUDGE_KEY", "secret-1234")
    with (
        serve(lambda body, _: (401, {"error": {"message": "bad key secret-1234"}})) as server,
        pytest.raises(ConfigurationError) as failure,
    ):
        verdicts(open_model(server))
    assert "TEST_JUDGE_KEY holds a key that it does not accept" in str(failure.value)
    assert "secret-1234" not in str(failure.value)
    assert set(server.keys) == {"Bearer secret-1234"}


def test_the_key_is_stored_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_JUDGE_KEY", "secret-1234")
    monkeypatch.setenv("ADPA_HOME", str(tmp_path))
    with serve(lambda body, _: (200, completion("A"))) as server:
        model = open_model(server)
        verdicts(model)
        assert "secret-1234" not in json.dumps(model.identity.as_dict())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"secret-1234" in path.read_bytes() for path in files)


def test_a_missing_key_is_said_to_be_missing(monkeypatch):
    monkeypatch.delenv("TEST_JUDGE_KEY", raising=False)
    with serve(lambda body, _: (401, {})) as server, pytest.raises(ConfigurationError, match="is not set"):
        verdicts(open_model(server))


def test_a_reply_by_another_model_is_refused():
    with (
        serve(lambda body, _: (200, completion("A", model="other"))) as server,
        pytest.raises(ConfigurationError, match=r"asked .* for 'judge', and 'other' answered"),
    ):
        verdicts(open_model(server))


def test_a_dated_snapshot_is_the_model_asked_for():
    with serve(lambda body, _: (200, completion("A", model="judge-2026-01-31"))) as server:
        assert verdicts(open_model(server))[0].preference == 1.0


def test_a_model_that_is_not_served_is_named_before_any_question():
    with (
        serve(lambda body, _: (200, completion("A")), models=("x", "y")) as server,
        pytest.raises(ConfigurationError, match="does not serve 'judge'; it serves x, y"),
    ):
        open_model(server)
    assert server.requests == []


def test_an_address_where_nothing_listens_says_so():
    with serve(lambda body, _: (200, completion("A"))) as server:
        pass
    with pytest.raises(EvaluationError, match=r"does not answer \(Connection refused; 3 attempts\)"):
        open_model(server)


def test_parameters_that_a_server_refuses_are_left_out():
    def reply(body, number):
        for name in ("max_tokens", "logprobs", "temperature"):
            if name in body:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}'"}}
        return 200, completion("A")

    with serve(reply) as server:
        model = open_model(server, concurrency=1)
        assert verdicts(model, 3)[2].preference == 1.0
    last = server.requests[-1]
    assert last["max_completion_tokens"] > 0
    assert not {"max_tokens", "logprobs", "top_logprobs", "temperature"} & last.keys()
    assert len(server.requests) == 3 + 3  # each refusal costs one request, once


def test_a_question_too_long_for_the_judge_is_one_malformed_verdict():
    def reply(body, number):
        if "question 1" in body["messages"][0]["content"]:
            return 400, {"error": {"message": "This model's maximum context length is 10 tokens"}}
        return 200, completion("A")

    with serve(reply) as server:
        found = verdicts(open_model(server), 3)
    assert [found[i].preference for i in range(3)] == [1.0, None, 1.0]
    assert "too long for the judge" in found[1].text


def test_no_more_requests_are_under_way_than_allowed():
    gate = threading.Barrier(2, timeout=20)

    def reply(body, number):
        gate.wait()  # passes only if two are really there at once
        return 200, completion("A")

    with serve(reply) as server:
        verdicts(open_model(server, concurrency=2), 6)
    assert server.most_at_once == 2


def test_cost_is_estimated_before_and_counted_after():
    with serve(lambda body, _: (200, completion("A"))) as server:
        judge = PairwiseJudge(open_model(server, price=Price(10.0, 40.0)))
        plan = judge.plan(requests(2))
        list(judge.judge(requests(2)))
        assert "2 questions" in plan
        assert "at most about $0.00" in plan
        # 2 * (100 read * $10 + 1 written * $40) per million
        assert judge.spent() == "2 questions asked: 200 tokens read, 2 written: $0.0021"


def test_a_server_of_something_else_is_recognised():
    with (
        serve(lambda body, _: (200, {"hello": "world"})) as server,
        pytest.raises(EvaluationError, match="not with a chat completion"),
    ):
        verdicts(open_model(server))


def test_an_address_that_is_none_is_refused():
    settings = ApiSettings(url="localhost:8000", model="judge")
    with pytest.raises(ConfigurationError, match="--judge-url"):
        EndpointChatModel(settings)


def test_passwords_in_an_address_are_not_part_of_the_identity():
    settings = ApiSettings(url="https://me:pass@host/v1/?token=abc", model="judge")
    assert settings.public_url == "https://host/v1"


@pytest.mark.parametrize("text", ["1", "1:", ":", "a:b", "-1:2", "1:inf", "nan:1"])
def test_price_that_is_not_two_numbers_is_refused(text):
    with pytest.raises(ConfigurationError, match="is not READ:WRITTEN"):
        Price.parse(text)


def test_price_is_read_in_dollars_for_a_million_tokens():
    assert Price.parse("0.5:2").of(read=2e6, written=1e6) == 3.0
