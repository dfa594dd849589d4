import json
from types import SimpleNamespace

from tests.trainer import ranks
from trainer.data.position import beginning
from trainer.metrics.ledger import Ledger
from trainer.run_dir import AttemptDir


def lines(attempt):
    return [json.loads(line) for line in attempt.trained.read_text().splitlines()]


def result(*indexes):
    return SimpleNamespace(micro=[SimpleNamespace(index=index) for index in indexes])


def test_a_line_a_step_is_written_with_each_save_and_never_twice(tmp_path, group_of_one):
    attempt = AttemptDir(tmp_path)
    ledger, position = Ledger(attempt, group_of_one), beginning(1)
    for index in (7, 2):
        position = position.after_step(1)
        ledger.step(result(index), position)
    assert not attempt.trained.exists()
    ledger.save()
    position = position.next_epoch({}).after_step(2)
    ledger.step(result(0, 5), position)
    ledger.save()
    ledger.save()
    assert lines(attempt) == [
        {"global_step": 1, "epoch": 0, "micro_batches": [[7]]},
        {"global_step": 2, "epoch": 0, "micro_batches": [[2]]},
        {"global_step": 3, "epoch": 1, "micro_batches": [[0, 5]]},
    ]


def save_two(it, folder):
    ledger = Ledger(AttemptDir(folder), it)
    ledger.step(result(10 + it.rank), beginning(2).after_step(1))
    ledger.save()


def test_the_line_has_what_every_rank_trained_on(tmp_path):
    ranks.run(2, save_two, tmp_path)
    [line] = lines(AttemptDir(tmp_path))
    assert line["micro_batches"] == [[10], [11]]
