"""What a machine and a repository are fit for: whether images can be imported and mounted, and what to do if not.

Each module has what is known of one thing, as values (`find_...`), and what that means (`judge_...`), which looks at
nothing but these values.
"""

from composefs.doctor.examination import examine
from composefs.doctor.finding import Finding, Job, Status

__all__ = ["Finding", "Job", "Status", "examine"]
