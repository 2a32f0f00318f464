from mmjax.data.bad_example import BadExample
from mmjax.data.loading.bad_example_log import BadExampleLog, write_traceback


def test_each_reason_is_logged_once(caplog):
    log = BadExampleLog()
    for reason in ("corrupt", "corrupt", "own/reason", "own/reason"):
        log.add(BadExample(reason, "x"), "a\x1b", 3)
    assert len(caplog.messages) == 2 and all("a\\x1b: example 3" in message for message in caplog.messages)


def test_a_traceback_of_odd_text_is_written(tmp_path):
    path = write_traceback(ValueError("\ud83d"), str(tmp_path))
    assert path == f"{tmp_path}/traceback.txt" and r"\ud83d" in (tmp_path / "traceback.txt").read_text()
