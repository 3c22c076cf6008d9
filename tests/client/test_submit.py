"""How submissions of one account take turns."""

import asyncio

from deepbrain.client.submit import Turn


async def test_a_turn_that_ended_early_does_not_end_the_next_one():
    lock = asyncio.Lock()
    async with Turn(lock) as first:
        first.end()
        async with Turn(lock) as second:
            first.end()  # as its block does when it is left
            assert lock.locked()
            second.end()
            assert not lock.locked()
