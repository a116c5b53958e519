// The API as /openapi.json describes it.
const made = (name, text) => { const e = document.createElement(name); e.textContent = text; return e; };
const main = document.getElementById("operations");
main.style.setProperty("grid-template-columns", "1fr");
try {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(response.status === 401 ? "The description asks for the token: read /openapi.json with it." : `status ${response.status}`);
  const api = await response.json();
  const named = (key, value) => value?.$ref ? written(api.components.schemas[value.$ref.split("/").pop()]) : value;
  const written = (value) => JSON.parse(JSON.stringify(value, named));
  const about = document.createElement("section");
  for (const part of api.info.description.split("\n\n")) about.append(made("p", part));
  main.append(about);
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const section = document.createElement("section");
      section.append(made("h2", `${method.toUpperCase()} ${path}`), made("p", operation.summary));
      for (const [kind, content] of Object.entries(operation.requestBody?.content ?? {})) {
        section.append(made("h3", kind), made("pre", JSON.stringify(content.example ?? written(content.schema), null, 1)));
      }
      main.append(section);
    }
  }
} catch (error) {
  main.append(made("p", error.message));
}
