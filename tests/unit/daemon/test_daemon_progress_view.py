import io

from nsstream_daemon.progress_view import ProgressView
from rich.console import Console

from nsstream.pipeline import Progress, Stage

REPORTS = [
    Progress(Stage.IMPORT, 0.0),
    Progress(Stage.IMPORT, 2.0, chunk_count=2, packet_count=12_345, is_done=True),
    Progress(Stage.SEED, 3.0, 1, 2, phase="likelihood", step=1, loss=2.5, left_s=60.0),
    Progress(Stage.SEED, 4.0, 1, 2, phase="likelihood", step=2, loss=2.25, left_s=59.0),
    Progress(Stage.FINE_TUNE, 20.0, 2, 2, step=5, steps=10, loss=1.0),
    Progress(Stage.FINE_TUNE, 21.0, 2, 2, note="a worker failed and is tried once more: it ended with status 1"),
    Progress(Stage.REPLAY, 30.0, chunk=1, chunk_count=2, packet_count=100),
    Progress(Stage.REPLAY, 31.0, chunk=2, chunk_count=2, packet_count=900, is_done=True),
]


def view_of(reports: list[Progress], *, is_terminal: bool) -> str:
    text = io.StringIO()
    with ProgressView(Console(file=text, force_terminal=is_terminal, width=120)) as view:
        for report in reports:
            view(report)
    return text.getvalue()


def test_where_there_is_no_terminal_stages_are_plain_lines_and_steps_are_thinned_out():
    lines = view_of(REPORTS, is_terminal=False).splitlines()
    assert lines == [
        "   0.0 s  import: started",
        "   2.0 s  import: done, 2 chunks, 12,345 packets, 2 s",
        "   3.0 s  seed model: likelihood, step 1, loss 2.500, 60 s left",
        "  20.0 s  fine-tune 2/2: step 5/10, loss 1.000",
        "  21.0 s  fine-tune 2/2: 1 s, a worker failed and is tried once more: it ended with status 1",
        "  30.0 s  replay: chunk 1/2, 100 packets",
        "  31.0 s  replay: done, chunk 2/2, 900 packets, 1 s",
    ]


def test_on_a_terminal_every_stage_has_a_bar():
    text = view_of(REPORTS, is_terminal=True)
    for words in ("import", "seed model", "fine-tune 2/2", "replay", "900 packets", "tried once more"):
        assert words in text
