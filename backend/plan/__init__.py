"""The plan: what one recipe means here, step by step, with bytes, memory and time for each, before anything runs.

``step`` and ``value`` are the data, ``finding`` looks for the sources, ``steps`` says what each step costs; ``making``
and ``checking`` are what is done with it all.
Knows nothing about how a step is carried out.
"""

from backend.plan.checking import check_plan as check_plan
from backend.plan.finding import Find as Find
from backend.plan.finding import Instead as Instead
from backend.plan.finding import Stored as Stored
from backend.plan.making import estimate_plan as estimate_plan
from backend.plan.making import make_plan as make_plan
from backend.plan.step import FETCH as FETCH
from backend.plan.step import FINISH as FINISH
from backend.plan.step import MB as MB
from backend.plan.step import MERGE as MERGE
from backend.plan.step import TRY as TRY
from backend.plan.step import VERIFY as VERIFY
from backend.plan.step import Step as Step
from backend.plan.value import Plan as Plan
