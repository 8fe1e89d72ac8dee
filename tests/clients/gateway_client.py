"""The client `etcd3gw` from PyPI, which speaks JSON, against a member: gateway_client.py HOST:PORT"""

import sys
import threading

import etcd3gw

host, port = sys.argv[1].split(":")
client = etcd3gw.client(host=host, port=int(port), api_path="/v3/", timeout=20)

assert client.put("a", "1")
assert client.get("a") == [b"1"]
assert client.create("b", "2") and not client.create("b", "3")
assert client.replace("b", "2", "4")
assert client.get("b") == [b"4"]
pairs = client.get_prefix("a")
assert [value for value, _ in pairs] == [b"1"], pairs

lease = client.lease(ttl=100)
assert client.put("leased", "x", lease=lease)
assert 0 < lease.ttl() <= 100 and lease.keys() == [b"leased"]
assert lease.refresh() == 100
assert lease.revoke()
assert client.get("leased") == []

events, cancel = client.watch("w")
timer = threading.Timer(1, lambda: client.put("w", "seen"))
timer.start()
event = next(iter(events))
assert event["kv"]["value"] == b"seen", event
cancel()

with client.lock("l", ttl=30) as lock:
    assert lock.is_acquired()

result = client.transaction(
    {
        "compare": [{"key": "YQ==", "result": "EQUAL", "target": "VALUE", "value": "MQ=="}],
        "success": [{"request_put": {"key": "YQ==", "value": "Mg=="}}],
        "failure": [],
    }
)
assert result["succeeded"] and client.get("a") == [b"2"]
assert client.delete("a") and not client.delete("a")
assert len(client.members()) == 1
assert client.status()["version"].startswith("3.")
print("ok")
