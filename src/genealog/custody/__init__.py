"""Is what was said of a model's making true? Edges of executions against bytes.

`checking` walks the edges and gives each a state, a method and a code; `held` finds the bytes; `lora`, `merging`,
`rerun` compute again what was computed; `updates` registers versions that differ in few files; `claims` turns names
that files give into claimed edges; `accepting` refuses what is false when it is said.

What is proven is proven now, to whoever runs it. A finding in the log is a statement about an edge: it can contradict,
and never makes an edge proven for somebody else.
"""

from genealog.custody.accepting import accept
from genealog.custody.checking import Checked, Checker
from genealog.custody.claims import add, import_claims
from genealog.custody.outcome import Outcome
from genealog.custody.rerun import RERUN
from genealog.custody.updates import update

__all__ = ["RERUN", "Checked", "Checker", "Outcome", "accept", "add", "import_claims", "update"]
