"""The client `etcd3` from PyPI against a member: client.py HOST:PORT"""

import sys
import threading

import etcd3

host, port = sys.argv[1].split(":")
client = etcd3.client(host=host, port=int(port), timeout=20)

client.put("/a", "1")
value, meta = client.get("/a")
assert (value, meta.version) == (b"1", 1), (value, meta)

events = []
seen = threading.Event()


def on_event(response):
    events.extend(response.events)
    if len(events) >= 3:
        seen.set()


watch = client.add_watch_prefix_callback("/w", on_event)
client.put("/w1", "x")
client.put("/w2", "y")
client.delete("/w1")
assert seen.wait(20), events
assert [type(event).__name__ for event in events] == ["PutEvent", "PutEvent", "DeleteEvent"]
client.cancel_watch(watch)

succeeded, _ = client.transaction(
    compare=[client.transactions.value("/a") == "1", client.transactions.version("/a") > 0],
    success=[client.transactions.put("/a", "2")],
    failure=[client.transactions.put("/a", "3")],
)
assert succeeded and client.get("/a")[0] == b"2"
assert client.replace("/a", "2", "4") and not client.replace("/a", "2", "5")
assert client.put_if_not_exists("/new", "1") and not client.put_if_not_exists("/new", "2")

lease = client.lease(60)
client.put("/leased", "x", lease=lease)
assert 0 < lease.remaining_ttl <= 60 and lease.granted_ttl == 60
assert list(lease.keys) == [b"/leased"]
lease.refresh()
lease.revoke()
assert client.get("/leased")[0] is None

with client.lock("resource", ttl=30) as lock:
    assert lock.is_acquired()

assert [value for value, _ in client.get_prefix("/w")] == [b"y"]
assert client.delete_prefix("/w").deleted == 1
assert client.status().version.startswith("3.")
assert len(list(client.members)) == 1
assert list(client.list_alarms()) == []
client.compact(client.get("/a")[1].response_header.revision)
client.defragment()
assert client.hash() > 0
print("ok")
