"""The reference program, unchanged, to compare the exporter with. OLLAMA_HOST is the address of Ollama."""
# ruff: noqa: T201 - it prints its result

import time

from langchain_core.prompts import ChatPromptTemplate
from langchain_ollama import OllamaLLM

template = """Question: {question}

Answer: Let's think step by step."""
prompt = ChatPromptTemplate.from_template(template)
model = OllamaLLM(model="llama3.1")
chain = prompt | model
question = "What are the 50 most imporant concepts in a college level course on deep learning?"

start_time = time.time()
result = chain.invoke({"question": question})
elapsed_time = time.time() - start_time

token_count = len(result.split())
tokens_per_second = token_count / elapsed_time if elapsed_time > 0 else 0

print("Result:")
print(result)
print("\nStatistics:")
print(f"Token Count: {token_count}")
print(f"Time Elapsed: {elapsed_time:.2f} seconds")
print(f"Tokens per Second: {tokens_per_second:.2f}")
