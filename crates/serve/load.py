"""Load on a running service, from this machine: one client for latency, then many for a while.

    kirie serve photos --port 8431 &
    python3 crates/serve/load.py --port 8431 --pid $! --clients 50 --seconds 60

First every picture is embedded, and one client asks for 200 points and 200 boxes. Then each of the clients, in a thread of its own and as
fast as it is answered, asks for points (60 %), boxes (10 %), the list, thumbnails, a new object that it deletes again, and everything with
4 x 4 points (5 %). A client that gets 503 waits 0.2 s. Prints JSON; anything but success and 503 is listed under "bad".
"""

import argparse
import collections
import http.client
import json
import random
import threading
import time


class Client:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method, path, body=None):
        headers = {"Content-Type": "application/json"} if body is not None else {}
        start = time.perf_counter()
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        data = answer.read()
        return answer.status, data, 1000 * (time.perf_counter() - start)


def point(chance, image):
    return {"prompts": [{"points": [[chance.random() * image["width"], chance.random() * image["height"]]]}]}


def box(image):
    width, height = image["width"], image["height"]
    return {"prompts": [{"box": [width * 0.2, height * 0.2, width * 0.7, height * 0.7]}]}


def one_request(client, chance, image):
    path = f"/api/images/{image['id']}"
    draw = chance.random()
    if draw < 0.6:
        return "point", *client.ask("POST", f"{path}/predict", point(chance, image))
    if draw < 0.7:
        return "box", *client.ask("POST", f"{path}/predict", box(image))
    if draw < 0.8:
        return "list", *client.ask("GET", "/api/images")
    if draw < 0.88:
        return "thumbnail", *client.ask("GET", f"{path}/thumbnail")
    if draw < 0.95:
        width, height = image["width"], image["height"]
        mask = {"size": [height, width], "counts": [5, 10, height * width - 15]}
        status, data, took = client.ask("POST", f"{path}/objects", {"objects": [{"segmentation": mask}]})
        if status == 201:
            client.ask("DELETE", f"/api/objects/{json.loads(data)['objects'][0]['id']}")
        return "object", status, data, took
    return "everything", *client.ask("POST", f"{path}/everything", {"points_per_side": 4})


def spread(times):
    times = sorted(times)
    return {"median": times[len(times) // 2], "p95": times[int(len(times) * 0.95)], "most": times[-1]}


def resident(pid):
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()

    client, chance = Client(arguments.port), random.Random(1)
    images = json.loads(client.ask("GET", "/api/images")[1])["images"]
    for image in images:
        client.ask("POST", f"/api/images/{image['id']}/embedding", {})
    alone = {"point": [], "box": []}
    for _ in range(200):
        for kind, times in alone.items():
            image = chance.choice(images)
            body = point(chance, image) if kind == "point" else box(image)
            status, data, took = client.ask("POST", f"/api/images/{image['id']}/predict", body)
            assert status == 200, (status, data)
            times.append(took)

    counts, times, bad, lock = collections.Counter(), collections.defaultdict(list), [], threading.Lock()
    end = time.time() + arguments.seconds

    def work(number):
        chance, client = random.Random(number), Client(arguments.port)
        while time.time() < end:
            try:
                kind, status, data, took = one_request(client, chance, chance.choice(images))
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    bad.append(repr(error))
                client = Client(arguments.port)
                continue
            with lock:
                counts[f"{kind} {status}"] += 1
                if status < 400:
                    times[kind].append(took)
                elif status != 503:
                    bad.append(f"{kind} {status} {data[:200]}")
            if status == 503:
                time.sleep(0.2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(arguments.clients)]
    for thread in threads:
        thread.start()
    peak = 0
    while time.time() < end:
        peak = max(peak, resident(arguments.pid))
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    print(
        json.dumps(
            {
                "alone_ms": {kind: spread(all) for kind, all in alone.items()},
                "answers": dict(sorted(counts.items())),
                "ms": {kind: spread(all) for kind, all in times.items()},
                "peak_mib": peak,
                "bad": bad[:20],
                "bad_in_all": len(bad),
            },
            indent=1,
        )
    )


main()
