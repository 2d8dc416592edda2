"""The machine beneath the plugin's names: a card whose memory is the host's, and whose rules are the card's."""

from .ledger import LEDGER as LEDGER
from .ledger import Unsealed as Unsealed
from .settings import SETTINGS as SETTINGS
