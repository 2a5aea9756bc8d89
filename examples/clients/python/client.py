"""Logs in, creates a conversation with a message, and lists the conversations of the organization.

    pip install -r requirements.txt
    openapi-python-client generate --path ../../../openapi/openapi.json --output-path generated
    CEDARGATE=http://127.0.0.1:8080 EMAIL=admin@example.com PASSWORD=… python client.py
"""
import os
import sys

sys.path.insert(0, "generated")
from cedargate_client import AuthenticatedClient, Client
from cedargate_client.api.conversations import create_conversation, list_conversations
from cedargate_client.api.tokens import create_token
from cedargate_client.models import ByPassword, ListConversationsSortItem, NewConversation

base = os.environ.get("CEDARGATE", "http://127.0.0.1:8080")
login = ByPassword(email=os.environ["EMAIL"], password=os.environ["PASSWORD"])
answer = create_token.sync(client=Client(base), body=login)
client = AuthenticatedClient(base, token=answer.token, raise_on_unexpected_status=True)

body = NewConversation.from_dict({"name": "Opening hours", "messages": [{"type": "text", "text": "When do you open?"}]})
created = create_conversation.sync(client=client, body=body)
print("created", created.id)

newest_first = [ListConversationsSortItem("-createdAt")]
for conversation in list_conversations.sync(client=client, sort=newest_first, limit=10):
    print(conversation.id, conversation.name)
