"""Data as people have it: where labels stand is found out for the whole file, and what is not read is named."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from converter.data.files import read_data, read_examples, read_texts
from converter.data.survey import DataOptions
from converter.errors import DataError, RecipeError
from converter.examples import Answer
from tests.unit.test_data import TAGS, refused, task, write

TOXIC = ("toxic", "severe_toxic", "obscene")


def many(labels: tuple[str, ...] = TOXIC) -> Any:
    return task(labels=labels, problem_type="multi_label_classification")


def lines(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    return write(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n" for r in rows))


def labels(path: Path, wanted: Any = None, **options: Any) -> list[Any]:
    return [e.label for e in read_data(path, wanted or task(), DataOptions(**options)).examples]


# Columns


def test_a_column_of_another_name_is_read_where_the_model_has_all_its_values(tmp_path: Path) -> None:
    path = write(tmp_path, "imdb.csv", "review,sentiment\ngood,positive\nbad,negative\n")
    made = read_data(path, task(), judged=True)
    assert [e.label for e in made.examples] == [1, 0]
    assert made.notes == ("imdb.csv: labels are read from the column 'sentiment'",)
    any_name = write(tmp_path, "any.csv", "text,verdict,lang\ngood,Positive,en\nbad,negative,en\n")
    assert labels(any_name) == [1, 0]
    numbered = write(tmp_path, "t.csv", "tweet,target\na,0\nb,1\n")
    assert labels(numbered) == [0, 1]


def test_columns_that_are_not_read_are_named_where_there_is_no_label(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,stars,when\ngood,5,today\nbad,1,now\n")
    made = read_data(path, task(), judged=True)
    assert [e.label for e in made.examples] == [None, None]
    assert "no labels that are read" in made.notes[0]
    assert "stars, when" in made.notes[0]
    assert "--columns" in made.notes[0]
    assert not read_data(path, task()).notes  # nobody is judged by it
    plain = read_data(write(tmp_path, "a.txt", "only text\n"), task(), judged=True)
    assert plain.notes == ("a.txt has no labels that are read, so there is no metric",)


def test_named_columns_win_over_the_usual_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label,title,verdict\nx,0,good,positive\ny,1,bad,negative\n")
    options = DataOptions({"text": "Title", "label": "verdict"})
    assert [(e.text, e.label) for e in read_data(path, task(), options).examples] == [("good", 1), ("bad", 0)]
    pair = DataOptions({"text": "title", "pair": "text", "label": "label"})
    assert [(e.text, e.pair, e.label) for e in read_data(path, task(), pair).examples[:1]] == [("good", "x", 0)]


def test_named_columns_serve_every_task(tmp_path: Path) -> None:
    path = lines(tmp_path, {"q": "When?", "passage": "In 1903.", "a": "1903", "score": 1})
    options = DataOptions({"text": "q", "pair": "passage", "label": "a"})
    found = read_data(path, task("question-answering"), options).examples
    assert [(e.text, e.pair, e.label) for e in found] == [("When?", "In 1903.", Answer(("1903",), (3,)))]
    tagged = lines(tmp_path, {"w": ["Anna", "left"], "gold": ["B-PER", "O"], "ner_tags": [0, 0]})
    options = DataOptions({"text": "w", "label": "gold"})
    assert labels(tagged, task("token-classification", TAGS), columns=options.columns) == [("B-PER", "O")]
    scored = write(tmp_path, "s.csv", "a,b,gold,score\nx,y,2.5,1\n")
    options = DataOptions({"text": "a", "pair": "b", "label": "gold"})
    assert [e.label for e in read_data(scored, task("feature-extraction"), options).examples] == [2.5, 2.5]


def test_a_named_column_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,verdict\ngood,positive\n")
    with pytest.raises(DataError, match="there is no column 'verdikt' for label; there are text, verdict") as caught:
        read_data(path, task(), DataOptions({"label": "verdikt"}))
    assert "'verdict'" in caught.value.hint
    assert caught.value.where == f"{path}:2"
    # A calibration file has columns of its own.
    assert len(read_data(path, task(), DataOptions({"label": "verdikt"}, strict=False)).examples) == 1


# Several labels a text


def test_one_column_a_label_is_read(tmp_path: Path) -> None:
    rows = "id,comment_text,toxic,severe_toxic,obscene\n1,a,1,0,1\n2,b,0,0,0\n3,c,-1,-1,-1\n"
    assert labels(write(tmp_path, "jigsaw.csv", rows), many()) == [(1, 0, 1), (0, 0, 0), None]
    one_hot = write(tmp_path, "b.csv", "text,positive,negative\na,True,False\nb,0.0,1.0\n")
    assert labels(one_hot) == [1, 0]
    both = write(tmp_path, "c.csv", "text,positive,negative\na,1,1\n")
    assert "2 of its label columns are 1" in str(refused(both))
    error = refused(write(tmp_path, "d.csv", "text,toxic,obscene\na,1,0\n"), many())
    assert "'severe_toxic' has none" in str(error)


def test_lists_are_flags_or_indices_for_a_whole_file(tmp_path: Path) -> None:
    flags = lines(tmp_path, {"text": "a", "labels": [0, 1]}, {"text": "b", "labels": [1, 1]})
    assert labels(flags, many(("x", "y"))) == [(0, 1), (1, 1)]
    indices = lines(tmp_path, {"text": "a", "labels": [0, 1]}, {"text": "b", "labels": [1]})
    assert labels(indices, many(("x", "y"))) == [(1, 1), (0, 1)]
    alone = read_data(lines(tmp_path, {"text": "a", "labels": [0, 1]}), many(("x", "y")))
    assert "one 0 or 1 a class" in alone.notes[0]


def test_flags_among_indices_are_refused_by_line(tmp_path: Path) -> None:
    error = refused(lines(tmp_path, {"text": "a", "labels": [2]}, {"text": "b", "labels": [0, 1, 1]}), many())
    assert error.where.endswith(":2")
    assert "twice" in str(error)


def test_a_name_that_holds_a_comma_is_one_label(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,labels\na,"joy, mixed"\nb,"sad;joy, mixed"\n')
    assert labels(path, many(("joy, mixed", "sad"))) == [(1, 0), (1, 1)]


# Labels


def test_true_false_and_whole_floats_are_labels(tmp_path: Path) -> None:
    assert labels(write(tmp_path, "a.csv", "text,label\na,True\nb,FALSE\nc,1.0\nd,0.0\n")) == [1, 0, 1, 0]
    three = task(labels=("a", "b", "c"))
    assert labels(write(tmp_path, "b.csv", "text,label\nx,2.0\n"), three) == [2]
    assert "label 'True'" in str(refused(write(tmp_path, "c.csv", "text,label\nx,True\n"), three))


def test_rows_on_which_judges_did_not_agree_are_left_out_and_counted(tmp_path: Path) -> None:
    nli = task(labels=("entailment", "neutral", "contradiction"))
    rows = [{"sentence1": "a", "sentence2": "b", "gold_label": v} for v in ("neutral", "-", "entailment")]
    made = read_data(lines(tmp_path, *rows), nli, judged=True)
    assert [e.label for e in made.examples] == [1, 0]
    assert made.notes[0].endswith("they have none: 1")
    named = task(labels=("-", "+"))
    assert labels(write(tmp_path, "a.csv", "text,label\na,-\nb,+\n"), named) == [0, 1]


def test_labels_counted_from_one_are_refused_with_that_guess(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "a.csv", "text,label\na,1\nb,2\n"))
    assert "counted from 1" in error.hint
    assert "--label-map" in error.hint


def test_a_label_map_names_the_models_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\na,pos\nb,neg\nc,mixed\nd,positive\n")
    assert labels(path, label_map={"pos": "positive", "neg": "0", "mixed": ""}) == [1, 0, 1]
    numbers = write(tmp_path, "n.csv", "text,label\na,1\nb,2.0\n")
    assert labels(numbers, label_map={"1": "negative", "2": "positive"}) == [0, 1]
    tags = lines(tmp_path, {"tokens": ["Anna", "left"], "ner_tags": ["PERSON", "O"]})
    assert labels(tags, task("token-classification", TAGS), label_map={"PERSON": "B-PER"}) == [("B-PER", "O")]
    several = lines(tmp_path, {"text": "a", "labels": ["t", "o"]})
    assert labels(several, many(), label_map={"t": "toxic", "o": "obscene"}) == [(1, 0, 1)]


def test_a_label_map_to_what_the_model_lacks_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\na,pos\n")
    with pytest.raises(RecipeError, match="'positiv', which is no label") as caught:
        labels(path, label_map={"pos": "positiv"})
    assert "'positive'" in caught.value.hint
    with pytest.raises(RecipeError, match="no labels to name"):
        labels(path, task("fill-mask"), label_map={"pos": "x"})


def test_of_several_columns_of_tags_the_one_that_the_model_has_is_read(tmp_path: Path) -> None:
    speech = task("token-classification", ("NOUN", "VERB"))
    by_index = lines(tmp_path, {"tokens": ["a", "b"], "ner_tags": [0, 0], "pos_tags": [1, 0]})
    made = read_data(by_index, speech)
    assert [e.label for e in made.examples] == [("VERB", "NOUN")]
    assert made.notes == ("a.jsonl: labels are read from the column 'pos_tags'; ner_tags: not read",)
    uneven = lines(tmp_path, {"tokens": ["a"], "tags": ["per"]}, {"tokens": ["b"], "ner_tags": ["O"]})
    tagger = task("token-classification", TAGS)
    assert labels(uneven, tagger, label_map={"per": "B-PER"}) == [("B-PER",), ("O",)]
    by_name = lines(tmp_path, {"tokens": ["a", "b"], "tags": ["X", "Y"], "chunk_tags": ["B-PER", "O"]})
    assert labels(by_name, task("token-classification", TAGS)) == [("B-PER", "O")]


# Lines


def test_fasttext_lines_give_labels_and_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "__label__positive it is good\n__label__negative bad , very\nno label here\n")
    found = read_examples(path, task())
    assert [(e.text, e.label) for e in found] == [("it is good", 1), ("bad , very", 0), ("no label here", None)]
    several = write(tmp_path, "b.txt", "__label__toxic __label__severe-toxic rude\n__label__obscene x\n")
    assert labels(several, many()) == [(1, 1, 0), (0, 0, 1)]
    error = refused(write(tmp_path, "c.txt", "__label__positive a\n__label__great b\n"))
    assert error.where.endswith("c.txt:2")
    assert list(read_texts(path)) == ["it is good", "bad , very", "no label here"]


CONLL = "-DOCSTART- -X- -X- O\n\nAnna NNP B-NP B-PER\nleft VBD B-VP O\n\nRome NNP B-NP B-LOC\n"


@pytest.mark.parametrize("name", ["a.txt", "a.conll"])
def test_conll_columns_give_words_and_tags_sentence_by_sentence(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, CONLL)
    found = read_examples(path, task("token-classification", TAGS))
    assert [(e.words, e.label, e.where) for e in found] == [
        (("Anna", "left"), ("B-PER", "O"), f"{path}:3"),
        (("Rome",), ("B-LOC",), f"{path}:6"),
    ]
    assert list(read_texts(path)) == ["Anna left", "Rome"]


def test_two_columns_parted_by_tabs_may_hold_spaces_and_any_tag_of_the_model(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "New York\tPLACE\nis\tO\n\nbig\tO\n")
    found = read_examples(path, task("token-classification", ("O", "PLACE")))
    assert [(e.words, e.label) for e in found] == [(("New York", "is"), ("PLACE", "O")), (("big",), ("O",))]


def test_plain_text_stays_text_for_a_tagger_and_a_broken_conll_line_is_named(tmp_path: Path) -> None:
    tagger = task("token-classification", TAGS)
    plain = read_examples(write(tmp_path, "a.txt", "Anna left\nfor Rome\n"), tagger)
    assert [(e.text, e.words, e.label) for e in plain] == [("Anna left", None, None), ("for Rome", None, None)]
    error = refused(write(tmp_path, "b.txt", CONLL + "oops\n"), tagger)
    assert error.where.endswith("b.txt:7")
    assert "1 columns, the first one 4" in str(error)
    unknown = refused(write(tmp_path, "c.txt", "Anna B-HUMAN\n"), tagger)
    assert "tag 'B-HUMAN'" in str(unknown)
    assert "--label-map" in unknown.hint


# Answers


def test_answers_as_pandas_writes_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    context = "The line opened in 1903."
    given = [
        "{'text': array(['1903'], dtype=object), 'answer_start': array([19])}",
        "{'text': array([], dtype=object), 'answer_start': array([], dtype=int32)}",
        "{'text': ['1903'], 'answer_start': [19]}",
    ]
    with path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([["question", "context", "answers"], *(["When?", context, g] for g in given)])
    none, wanted = Answer((), ()), Answer(("1903",), (19,))
    assert labels(path, task("question-answering")) == [wanted, none, wanted]


def test_answers_that_do_not_parse_are_refused_not_scored(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    given = "{'text': array(['1', ..., '2'], dtype=object), 'answer_start': array([0])}"
    with path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([["question", "context", "answers"], ["When?", "In 1903 [sic].", given]])
    error = refused(path, task("question-answering"))
    assert error.where == f"{path}:2"
    assert "cannot be read" in str(error)
    quoted = lines(tmp_path, {"question": "What?", "context": "In 1903 [sic].", "answers": "[sic]"})
    assert labels(quoted, task("question-answering")) == [Answer(("[sic]",), (8,))]


def test_answers_in_flat_columns_are_read_and_held_to_their_place(tmp_path: Path) -> None:
    head = "question,context,answer_text,answer_start,is_impossible\n"
    path = write(tmp_path, "a.csv", head + "When?,Not 1903 but 1903.,1903,13,False\nWho?,In 1903.,,,True\n")
    qa = task("question-answering")
    assert labels(path, qa) == [Answer(("1903",), (13,)), Answer((), ())]
    error = refused(write(tmp_path, "b.csv", head + "When?,In 1903.,1903,2,False\n"), qa)
    assert "is not at character 2" in str(error)


def test_squad_2_says_what_has_no_answer(tmp_path: Path) -> None:
    asked = {"question": "Who?", "is_impossible": True, "plausible_answers": [{"text": "1903", "answer_start": 19}]}
    table = {"data": [{"paragraphs": [{"context": "The line opened in 1903.", "qas": [asked]}]}]}
    found = labels(write(tmp_path, "a.json", json.dumps(table)), task("question-answering"))
    assert found == [Answer((), ())]


def test_words_that_numpy_printed_without_commas_are_not_joined(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "tokens\tner_tags\n['Anna' 'left']\t[1 0]\n")
    found = read_examples(path, task("token-classification", TAGS))
    assert [(e.words, e.label) for e in found] == [(("Anna", "left"), ("B-PER", "O"))]
