from soractl.stages import comparison
from tests.soractl.stages.test_report import stages


def test_of_many_numbers_the_two_that_differ_most_are_shown():
    rows = comparison.folded(comparison.differing(stages("stage1", "stage4")))
    assert [row for row in rows if row.setting.startswith("masks.")] == [
        comparison.SettingRow("masks.random", (0.05, 0.0)),
        comparison.SettingRow("masks.image_head", (0.05, 0.0), "(and 8 more masks)"),
    ]
