"""Wrong input: one clear line on stderr, exit code 2, and nothing that was there is lost."""

from __future__ import annotations

import shutil

import pytest

from minilm import threads
from minilm.cli import evaluate, main
from tests.cli.test_commands import SMALL, folder, language_run  # noqa: F401  fixtures


def fails(arguments, capsys, *words):
    """Run the command; it must end with exit code 2 and one line that holds every one of `words`."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse's own errors
        code = stop.code
    err = capsys.readouterr().err.strip()
    assert code == 2, err
    line = err.splitlines()[-1]
    assert "error" in line
    for word in words:
        assert str(word) in line, line
    assert "Traceback" not in err


def train(data, out, *more):
    return ["train", "--preset", "gpt", "--data", data, "--out", out, "--steps", "2", *SMALL, *more]


def finetune(data, out, *more):
    return ["finetune", "lstm-classifier", "--data", data, "--out", out, "--device", "cpu", "--quiet", *more]


def test_missing_file(tmp_path, capsys):
    fails(train(tmp_path / "nowhere.txt", tmp_path / "run"), capsys, "nowhere.txt")
    fails(finetune(tmp_path / "nowhere.csv", tmp_path / "run"), capsys, "nowhere.csv")
    fails(["generate", tmp_path / "nowhere"], capsys, "nowhere")


def test_empty_file(tmp_path, capsys):
    for name, command in (("empty.txt", train), ("empty.csv", finetune)):
        (tmp_path / name).touch()
        fails(command(tmp_path / name, tmp_path / "run"), capsys, name, "empty")


def test_binary_file(tmp_path, capsys):
    for name, command in (("binary.txt", train), ("binary.csv", finetune)):
        (tmp_path / name).write_bytes(b"some text\x00\xff\xfe and more")
        fails(command(tmp_path / name, tmp_path / "run"), capsys, name)


def test_text_shorter_than_the_context(tmp_path, capsys):
    (tmp_path / "short.txt").write_text("In the beginning.")
    fails(train(tmp_path / "short.txt", tmp_path / "run"), capsys, "16")


def test_prompt_longer_than_the_context(language_run, capsys):  # noqa: F811
    fails(["generate", language_run, "--prompt", "night " * 10, "--device", "cpu"], capsys, "60", "16")


def test_character_unknown_to_the_vocabulary(language_run, capsys):  # noqa: F811
    fails(["generate", language_run, "--prompt", "Ω", "--device", "cpu"], capsys, "Ω", "vocabulary")


def test_columns_and_labels(tmp_path, capsys):
    path = tmp_path / "reviews.csv"
    path.write_text("words,verdict\nfine,good\ndull,bad\n")
    fails(finetune(path, tmp_path / "run", "--label-column", "label"), capsys, "label", "verdict")
    path.write_text("text,label\nfine,good\nwarm,good\n")
    fails(finetune(path, tmp_path / "run"), capsys, "good")


def test_checkpoint_truncated_at_any_byte(language_run, tmp_path, capsys):  # noqa: F811
    run = tmp_path / "run"
    shutil.copytree(language_run, run)
    whole = (run / "best.safetensors").read_bytes()
    for length in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        (run / "best.safetensors").write_bytes(whole[:length])
        fails(["generate", run, "--device", "cpu"], capsys, "best.safetensors")
    (run / "best.safetensors").write_bytes(b"PK\x03\x04 some other program's file")
    fails(["generate", run, "--device", "cpu"], capsys, "best.safetensors")


def test_foreign_files_in_a_run(language_run, tmp_path, capsys):  # noqa: F811
    for name, content in (
        ("config.json", "{"),
        ("config.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", ""),
    ):
        run = tmp_path / "run"
        shutil.copytree(language_run, run, dirs_exist_ok=True)
        (run / name).write_text(content)
        fails(["generate", run, "--device", "cpu"], capsys, name)


def test_unknown_preset_option_and_command(folder, tmp_path, capsys):  # noqa: F811
    data = folder / "text.txt"
    fails(["train", "--preset", "gtp", "--data", data, "--out", tmp_path / "run"], capsys, "gtp", "gpt")
    fails(train(data, tmp_path / "run", "--option", "colour=3"), capsys, "colour")
    fails(["conjure"], capsys, "conjure")
    fails(["gradcheck", "sofmax"], capsys, "sofmax", "softmax")


@pytest.mark.parametrize(
    "option", ["--context", "--layers", "--heads", "--width", "--batch-size", "--steps", "--learning-rate", "--dropout"]
)
def test_negative_sizes(option, folder, tmp_path, capsys):  # noqa: F811
    fails(train(folder / "text.txt", tmp_path / "run", option, "-3"), capsys, "-3")
    assert not (tmp_path / "run").exists()


def test_cuda_without_a_gpu(folder, tmp_path, capsys):  # noqa: F811
    from tests.conftest import CUPY_PROBLEM

    if CUPY_PROBLEM is None:
        pytest.skip("a GPU is here")
    fails(train(folder / "text.txt", tmp_path / "run", "--device", "cuda"), capsys, "cuda", "cpu")


def test_an_existing_run_is_not_overwritten(language_run, folder, capsys):  # noqa: F811
    before = (language_run / "config.json").read_bytes()
    fails(train(folder / "text.txt", language_run), capsys, "--resume")
    assert (language_run / "config.json").read_bytes() == before


def test_resume_without_a_run(tmp_path, capsys):
    fails(["train", "--resume", "--out", tmp_path / "nothing"], capsys, "nothing")


def test_the_wrong_kind_of_run(language_run, capsys):  # noqa: F811
    fails(["predict", language_run, "some text", "--device", "cpu"], capsys, "language-modelling", "minilm generate")


@pytest.mark.parametrize("option", [("--temperature", "-1"), ("--top-k", "0"), ("--top-p", "1.5"), ("--tokens", "0")])
def test_sampling_options_out_of_range(option, language_run, capsys):  # noqa: F811
    fails(["generate", language_run, *option, "--device", "cpu"], capsys, option[1])


def test_threads_are_limited_for_the_command(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(evaluate, "run", lambda arguments: seen.append(threads.count()))
    assert main(["evaluate", "run", "--threads", "3"]) == 0
    assert seen == [3]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "run", "--threads", "0"])
    assert ended.value.code == 2 and "at least 1" in capsys.readouterr().err
