"""Puts a report on a pull request: creates a comment, or replaces the one of an earlier run.

    comment.py report/report.md

GITHUB_TOKEN, GITHUB_API_URL and GITHUB_REPOSITORY are those of the workflow; PULL_REQUEST is the number of the pull request.
"""
import io
import json
import os
import re
import sys
import urllib.request

MARKER = "<!-- cedargate policies -->"
# GitHub rejects comments of more than 65,536 characters.
MAX_LENGTH = 65_000
CUT = "**The report was cut here**, because a comment is too short for it. The artifacts of the workflow have all of it."

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


def cut(report):
    """Returns the first lines of a long report, with the code block and the details closed that are open at the end."""
    if len(report) <= MAX_LENGTH:
        return report
    kept, length, end = [], 0, ""
    fence, details = "", 0
    for line in io.StringIO(report):
        marker = re.match(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if not fence:
            fence = marker[1] if marker else ""
            details += 0 if marker else line.count("<details") - line.count("</details>")
        elif marker and marker[1].startswith(fence) and not marker[2].strip():
            fence = ""
        end_after_line = (f"{fence}\n" if fence else "") + "\n</details>\n" * details
        if length + len(line) + len(end_after_line) + len(CUT) + 2 > MAX_LENGTH:
            break
        kept.append(line)
        length += len(line)
        end = end_after_line
    # A first line that is too long is cut itself.
    text = "".join(kept) or report[: MAX_LENGTH - len(CUT) - 3] + "\n"
    return f"{text}{end}\n{CUT}\n"


def main():
    pull_request = int(os.environ["PULL_REQUEST"])
    with open(sys.argv[1], encoding="utf-8") as file:
        report = file.read()
    body = {"body": f"{MARKER}\n{cut(report)}"}
    comment = existing_comment(pull_request)
    if comment is None:
        call("POST", f"{pull_request}/comments", body)
    else:
        call("PATCH", f"comments/{comment}", body)


if __name__ == "__main__":
    main()
