"""Every bound in Klerk, with its unit in the name and the reason for the number.

Nothing in Klerk grows without a limit. A bound that a user may want to move is a parameter of
`App.open`; the value here is its default.
"""

from klerk.limits.commands import *
from klerk.limits.jobs import *
from klerk.limits.services import *
