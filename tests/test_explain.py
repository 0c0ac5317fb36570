"""python sspi_client.py explain, with words that look like options."""

import pytest

from sspi_client import main

LOGON_DENIED = "SEC_E_LOGON_DENIED (0x8009030C, -2146893044)"


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "-2146893044"],
        ["explain", "--", "-2146893044"],
        ["explain", "2148074252"],
        ["explain", "0x8009030C"],
        ["explain", "8009030C"],
    ],
    ids=" ".join,
)
def test_status_is_explained_however_it_is_written(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(LOGON_DENIED)


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "-1", "-2"],
        ["explain", "-2146893044", "more"],
        ["explain", "more", "-2146893044"],
        ["explain", "-x"],
        ["explain"],
        ["explain", "--", "1", "2"],
        ["-2146893044", "explain"],
        ["-2146893044"],
        ["diagnose", "HTTP/a", "-9"],
    ],
    ids=" ".join,
)
def test_negative_number_among_other_words_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("usage: sspi_client")


def test_option_behind_explain_is_an_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["explain", "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: sspi_client explain")
