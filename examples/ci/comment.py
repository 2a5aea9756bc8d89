"""Puts a report on a pull request: creates a comment, or replaces the one of an earlier run.

    comment.py report/report.md

GITHUB_TOKEN, GITHUB_API_URL and GITHUB_REPOSITORY are those of the workflow; PULL_REQUEST is the number of the pull request.
"""
import json
import os
import sys
import urllib.request

MARKER = "<!-- cedargate policies -->"
# GitHub rejects longer comments.
MAX_LENGTH = 65_000

api = f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}/issues"


def call(method, path, body=None):
    """Sends a request to GitHub and returns the parsed response."""
    request = urllib.request.Request(
        f"{api}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def existing_comment(pull_request):
    """Returns the id of the comment of an earlier run; None if there is none."""
    for page in range(1, 100):
        comments = call("GET", f"{pull_request}/comments?per_page=100&page={page}")
        for comment in comments:
            if comment["body"].startswith(MARKER):
                return comment["id"]
        if len(comments) < 100:
            return None
    return None


def main():
    pull_request = int(os.environ["PULL_REQUEST"])
    with open(sys.argv[1], encoding="utf-8") as file:
        report = file.read()
    if len(report) > MAX_LENGTH:
        report = report[:MAX_LENGTH] + "\n\nThe report is longer; the artifacts of the workflow have all of it."
    body = {"body": f"{MARKER}\n{report}"}
    comment = existing_comment(pull_request)
    if comment is None:
        call("POST", f"{pull_request}/comments", body)
    else:
        call("PATCH", f"comments/{comment}", body)


if __name__ == "__main__":
    main()
