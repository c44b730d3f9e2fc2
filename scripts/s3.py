"""What check-remote.sh does to an S3 server behind evergraft's back."""

import os
import socket
import sys
import threading
import time

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError


def client():
    return boto3.client("s3", endpoint_url=os.environ["S3_SERVER"])


def make_bucket():
    for _ in range(300):
        try:
            client().create_bucket(Bucket="bucket")
            return
        except EndpointConnectionError:
            time.sleep(0.1)
    sys.exit("the server does not answer")


def objects(prefix, kind):
    found = client().list_objects_v2(Bucket="bucket", Prefix=f"{prefix}/steps-v1/{kind}/")["Contents"]
    return [item["Key"] for item in sorted(found, key=lambda item: -item["Size"])]


def second_put(prefix):
    """The server itself must know If-None-Match, or nothing is tested here."""
    try:
        client().put_object(Bucket="bucket", Key=objects(prefix, "records")[0], Body=b"x", IfNoneMatch="*")
    except ClientError as error:
        print("the server answers", error.response["ResponseMetadata"]["HTTPStatusCode"])
        return
    sys.exit("the server took a second record")


def damage(prefix, what):
    key = objects(prefix, "files")[0]
    body = client().get_object(Bucket="bucket", Key=key)["Body"].read()
    if what == "lose":
        client().delete_object(Bucket="bucket", Key=key)
    else:
        changed = bytes([body[0] ^ 1]) + body[1:] if what == "flip" else body[:-1]
        client().put_object(Bucket="bucket", Key=key, Body=changed)


def cut_proxy(port, behind):
    """Passes everything on, but ends every connection after a megabyte of answers."""
    listener = socket.create_server(("127.0.0.1", port))

    def pump(source, target, budget):
        try:
            while budget > 0 and (data := source.recv(65536)):
                target.sendall(data)
                budget -= len(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", behind))
        threading.Thread(target=pump, args=(near, far, 1 << 40), daemon=True).start()
        threading.Thread(target=pump, args=(far, near, 1 << 20), daemon=True).start()


match sys.argv[1:]:
    case ["make-bucket"]:
        make_bucket()
    case ["second-put", prefix]:
        second_put(prefix)
    case ["damage", prefix, what]:
        damage(prefix, what)
    case ["cut-proxy", port, behind]:
        cut_proxy(int(port), int(behind))
