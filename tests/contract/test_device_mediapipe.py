"""Text for MediaPipe Tasks, normalized and cut in every language as the model's own tokenizer has it."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers

from converter.device.hard_texts import hard_texts
from converter.device.samples import PACKAGE
from converter.device.tables import escaped, read_tables, write_tables
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE
from tests.contract.device_packages import LENGTHS, Made, compiler, python_sample, run
from tests.tiny import SENTENCES, make_tokenizer

SIZES = (0, 2, 3, 5, 9, 24)
CPP = """
#include <cstdio>
#include "tokenizer.hpp"
void say(const std::string& text) {
  for (unsigned char c : text) std::printf("%02x", c);
  std::printf("\\n");
}
int main(int, char** argv) {
  const plm::Tokenizer tokenizer(argv[1]);
  std::ifstream file(argv[2], std::ios::binary);
  for (std::string line; std::getline(file, line);) {
    const std::string text = tokenizer.normalize(plm::unescape(line));
    say(text);
    for (int i = 3; argv[i]; ++i) say(tokenizer.shorten(text, std::stoul(argv[i])));
  }
}
"""
JAVA = """
package org.plmexport.textmodel;
import java.io.FileInputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
public final class Normalize {
    static void say(String text) {
        StringBuilder made = new StringBuilder();
        for (byte c : text.getBytes(StandardCharsets.UTF_8)) made.append(String.format("%02x", c));
        System.out.println(made);
    }
    public static void main(String[] args) throws Exception {
        Tokenizer tokenizer = new Tokenizer(
                new FileInputStream(args[0] + "/tokenizer.txt"), new FileInputStream(args[0] + "/vocab.txt"));
        String lines = new String(Files.readAllBytes(Paths.get(args[1])), StandardCharsets.UTF_8);
        for (String line : lines.split("\\n", -1)) {
            String text = tokenizer.normalize(Tables.unescape(line));
            say(text);
            for (int i = 2; i < args.length; i++) say(tokenizer.shorten(text, Integer.parseInt(args[i])));
        }
    }
}
"""


def _uncased() -> Tokenizer:
    made: Tokenizer = make_tokenizer("bert").backend_tokenizer
    return made


def _in_parts() -> Tokenizer:
    made: Tokenizer = make_tokenizer("mpnet").backend_tokenizer
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    return made


def _cased() -> Tokenizer:
    made = _uncased()
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    return made


@pytest.fixture(scope="module", params=[_uncased, _cased, _in_parts])
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    backend = request.param()
    folder = tmp_path_factory.mktemp("tables")
    write_tables(read_tables(backend), folder)
    return backend, folder


def _texts(backend: Tokenizer) -> list[str]:
    added = [t.content for t in backend.get_added_tokens_decoder().values()]
    hard = list(hard_texts(sorted(added)))
    return [
        *dict.fromkeys(t for h in hard for t in (h.text, h.pair or "") if len(t) < 2000),
        *SENTENCES,
        "a\U0001f642b ﬁ",
    ]


def _check(backend: Tokenizer, texts: list[str], said: list[str]) -> None:
    """Compare with what Hugging Face's tokenizer makes of the texts."""
    backend = Tokenizer.from_str(backend.to_str())
    backend.no_truncation()
    around = backend.num_special_tokens_to_add(False)
    lines = iter(said)
    for text in texts:
        normal = bytes.fromhex(next(lines)).decode()
        assert normal == backend.normalizer.normalize_str(text), ascii(text)
        whole = backend.encode(normal, add_special_tokens=False).ids
        for size in SIZES:
            made = bytes.fromhex(next(lines)).decode()
            ids = backend.encode(made, add_special_tokens=False).ids
            assert normal.startswith(made)
            assert len(ids) <= max(0, size - around)
            assert ids == whole[: len(ids)], ascii(normal)
            assert made == normal or len(ids) >= size - around - 1, (ascii(text), size)
            assert (made == normal) == (len(whole) <= size - around) or not normal[len(made) :].strip()
    assert not list(lines)


def _written(backend: Tokenizer, folder: Path) -> tuple[list[str], Path]:
    texts = _texts(backend)
    path = folder / "texts.txt"
    path.write_bytes("\n".join(map(escaped, texts)).encode())
    return texts, path


@pytest.fixture(scope="module")
def in_cpp(every_kind: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the program in C++."""
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "normalize.cpp").write_text(CPP, encoding="utf-8")
    strict = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", every_kind["classes"].samples / "cpp")
    done = run(compiler("g++"), *strict, folder / "normalize.cpp", "-o", folder / "normalize")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "normalize"


@pytest.fixture(scope="module")
def in_java(every_kind: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the program in Java."""
    folder = tmp_path_factory.mktemp("java")
    (folder / "Normalize.java").write_text(JAVA, encoding="utf-8")
    java = every_kind["classes"].samples / "java"
    # What the README says: all of them but the model's own class and its self-test.
    files = [path for path in java.iterdir() if path.stem not in {"TextClassifier", "SelfTest"}]
    done = run(compiler("javac"), "-d", folder / "out", *files, folder / "Normalize.java")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "out"


def test_cpp_normalizes_and_cuts_as_hugging_face_does(
    given: tuple[Tokenizer, Path], in_cpp: Path, tmp_path: Path
) -> None:
    backend, tables = given
    texts, path = _written(backend, tmp_path)
    _check(backend, texts, run(in_cpp, tables, path, *SIZES).stdout.splitlines())


def test_java_normalizes_and_cuts_as_hugging_face_does(
    given: tuple[Tokenizer, Path], in_java: Path, tmp_path: Path
) -> None:
    backend, tables = given
    texts, path = _written(backend, tmp_path)
    done = run(compiler("java"), "-cp", in_java, f"{PACKAGE}.Normalize", tables, path, *SIZES)
    _check(backend, texts, done.stdout.splitlines())


def test_python_normalizes_and_cuts_as_hugging_face_does(
    given: tuple[Tokenizer, Path], every_kind: dict[str, Made]
) -> None:
    backend, _ = given
    module = python_sample(every_kind["classes"])
    backend.enable_padding(length=40)
    backend.enable_truncation(8)
    texts, said = _texts(backend), []
    for text in texts:
        normal = module.normalize(backend, text)
        said += [s.encode().hex() for s in (normal, *(module.shorten(backend, normal, n) for n in SIZES))]
    _check(backend, texts, said)


@pytest.mark.parametrize(
    ("kind", "task", "call"), [("classes", "TextClassifier", "classify"), ("embedding", "TextEmbedder", "embed")]
)
def test_the_readme_shows_mediapipe_where_there_is_a_file_for_it(
    kind: str, task: str, call: str, every_kind: dict[str, Made], tmp_path: Path
) -> None:
    made = every_kind[kind]
    without = (made.write(tmp_path / "samples") / "README.md").read_text("utf-8")
    assert "MediaPipe" not in without
    (tmp_path / MEDIAPIPE_FILE).touch()
    text = (made.write(tmp_path / "samples") / "README.md").read_text("utf-8")
    section = text[text.index("## With MediaPipe Tasks") : text.index("## Self-test")]
    assert f"com.google.mediapipe.tasks.text.{task.lower()}.{task}.createFromFile(context, " in section
    assert f"MediaPipeTasksText.{task}(modelPath:" in section
    assert f"tasks.{task}.create_from_model_path(" in section
    assert section.count("normalize(t") == section.count(f".{call}(") == 3
    assert section.count(str(LENGTHS[-1])) == 3
    library = made.write(tmp_path / "samples", own_tokenizer=False, why_not="it is a test")
    assert "MediaPipeTasksText" not in (library / "README.md").read_text("utf-8")


def test_a_real_package_with_the_file_says_so(packages: dict[str, Made]) -> None:
    made = packages["shared"]
    assert (made.folder / MEDIAPIPE_FILE).is_file()
    assert "## With MediaPipe Tasks" in (made.samples / "README.md").read_text("utf-8")
