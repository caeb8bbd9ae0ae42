"""Batch jobs: many fields in one request, predicted one after another in the background."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from cytoloc.errors import BusyError, CytolocError, UnknownIdError
from cytoloc.predictions import Predictions
from cytoloc.serve.answers import JobAnswer, JobState, RejectedAnswer
from cytoloc.serve.guards import LOG
from cytoloc.serve.uploads import Upload, UploadFiles

MOST_KEPT: Final = 200
"""Maximum number of finished jobs whose results are kept."""

Predict = Callable[[Upload, int], Awaitable[tuple[list[Predictions], list[RejectedAnswer]]]]
"""A function that predicts the fields in the files at one position of an upload."""


@dataclass(eq=False)
class Job:
    """A batch job.

    Attributes:
        id: The id, which cannot be guessed.
        upload: The fields.
        files: The files.
        state: The state.
        parts: The predictions of the finished fields.
        rejected: The fields that could not be read.
        done: The number of finished files.
        error: Why the job failed.
    """

    id: str
    upload: Upload
    files: UploadFiles
    state: JobState = "waiting"
    parts: list[Predictions] = field(default_factory=list)
    rejected: list[RejectedAnswer] = field(default_factory=list)
    done: int = 0
    error: str = ""

    @property
    def answer(self) -> JobAnswer:
        """The state of the job, as JSON."""
        return JobAnswer(
            id=self.id,
            state=self.state,
            done=self.done,
            total=len(self.upload.fields),
            rejected=self.rejected,
            error=self.error,
        )

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ("done", "failed", "cancelled")


class JobQueue:
    """The batch jobs of the service, carried out one after another.

    Args:
        predict: Predicts the fields of one file.
        max_waiting: Maximum number of jobs that are not finished.
        at_once: Number of fields of a job that are read at the same time.
    """

    def __init__(self, predict: Predict, *, max_waiting: int, at_once: int) -> None:
        self._predict = predict
        self._at_once = at_once
        self._max_waiting = max_waiting
        self._jobs: dict[str, Job] = {}
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    @property
    def unfinished(self) -> int:
        """Number of jobs that are not finished."""
        return sum(not job.is_finished for job in self._jobs.values())

    def start(self) -> None:
        """Start to carry out jobs."""
        self._task = asyncio.create_task(self._run())

    async def finish(self) -> None:
        """Finish all jobs, and stop."""
        await self._queue.join()
        if self._task:
            self._task.cancel()

    def add(self, upload: Upload, files: UploadFiles) -> Job:
        """Add a job. The queue removes the files when the job is finished.

        Args:
            upload: The fields.
            files: The files of the fields.

        Returns:
            The job.

        Raises:
            BusyError: If too many jobs wait.
        """
        self.refuse_if_full()
        job = Job(secrets.token_urlsafe(16), upload, files)
        self._jobs[job.id] = job
        self._queue.put_nowait(job)
        for old in [each for each in self._jobs.values() if each.is_finished][:-MOST_KEPT]:
            del self._jobs[old.id]
        return job

    def refuse_if_full(self) -> None:
        """Raise :class:`~cytoloc.errors.BusyError` if too many jobs wait."""
        if self.unfinished >= self._max_waiting:
            raise BusyError(f"{self.unfinished} batch jobs are not finished.", hint="Try again later.")

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            UnknownIdError: If there is none.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise UnknownIdError("The service has no such job.", hint="It keeps the results of the last jobs only.")
        return job

    def cancel(self, job_id: str) -> Job:
        """Cancel a job, or forget its results if it is finished."""
        job = self.get(job_id)
        if job.is_finished:
            del self._jobs[job_id]
        else:
            if job.state == "waiting":
                job.files.remove()
            job.state = "cancelled"
        return job

    async def _run(self) -> None:
        """Carry out the jobs in order."""
        while True:
            job = await self._queue.get()
            try:
                await self._carry_out(job)
            except Exception:  # noqa: BLE001  see below
                # Broad on purpose: whatever a library raises, it is logged, and the next job is carried out.
                LOG.exception("A batch job failed.", extra={"job": job.id})
            finally:
                await asyncio.to_thread(job.files.remove)
                self._queue.task_done()

    async def _carry_out(self, job: Job) -> None:
        """Predict the fields of a job; a field that fails is listed."""
        if job.state == "waiting":
            job.state = "running"
        count = len(job.upload.fields)
        for start in range(0, count, self._at_once):
            if job.state != "running":
                return
            numbers = range(start, min(start + self._at_once, count))
            found = await asyncio.gather(
                *(self._predict(job.upload, number) for number in numbers), return_exceptions=True
            )
            for each in found:
                if isinstance(each, CytolocError):
                    # An error that is not about one image, such as a missing channel, is the same for all fields.
                    job.error, job.state = each.message, "failed"
                    return
                if isinstance(each, BaseException):
                    job.error, job.state = "The service failed to predict a field.", "failed"
                    raise each
                job.parts += each[0]
                job.rejected += each[1]
                job.done += 1
        if job.state == "running":  # it can be cancelled meanwhile
            job.state = "done"
