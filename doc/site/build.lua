-- Prepares the documentation as a site: copies the pages and what they show into a folder, as they lie
-- in the tree, and writes mkdocs.yml. `./dev site` runs mkdocs on it.
--
--   lua5.4 doc/site/build.lua FOLDER      FOLDER/pages, FOLDER/mkdocs.yml
--   lua5.4 doc/site/build.lua --check     only whether every page is in the navigation
--
-- The navigation is what doc/README.md lists: its headings are the sections. A page that it does not
-- list is an error, so that none is forgotten. Files of the sources that pages link to are copied as
-- texts, and a link to a folder gets a list of its files.

local INDEX = "doc/README.md"

-- Pages besides those of doc/ and what they link to.
local OTHERS = {"README.md", "CHANGES.md", "HACKING.md", "SECURITY.md", "STYLE.md", "bench/README.md",
  "bench/steps.md", "bench/results/results.md"}

local complaints = 0
local function complain(format, ...)
  complaints = complaints + 1
  print(format:format(...))
end

local function lines_of(command)
  local list = {}
  local pipe <close> = assert(io.popen(command))
  for line in pipe:lines() do list[#list + 1] = line end
  return list
end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local function folder_of(path)
  return path:match "^(.*)/[^/]*$" or ""
end

local function shell_quote(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

-- "doc", "../src/a.c" -> "src/a.c"
local function resolve(folder, target)
  local parts = {}
  for part in (folder .. "/" .. target):gmatch "[^/]+" do
    if part == ".." then parts[#parts] = nil elseif part ~= "." then parts[#parts + 1] = part end
  end
  return table.concat(parts, "/")
end

local function is_folder(path)
  return os.execute("test -d " .. shell_quote(path)) == true
end

local function exists(path)
  return os.execute("test -e " .. shell_quote(path)) == true
end

-- ---- pages ----

local pages, is_page = {}, {}
for _, path in ipairs(lines_of "find doc -name '*.md' | sort") do pages[#pages + 1] = path end
for _, path in ipairs(OTHERS) do pages[#pages + 1] = path end
for _, path in ipairs(pages) do is_page[path] = true end

-- {title, target} of the links of a text; pictures, too.
local function links_of(text)
  local links = {}
  for title, target in text:gmatch "%[([^%]]-)%]%(([^%s)]+)%)" do links[#links + 1] = {title, target} end
  return links
end

local function title_of(path)
  return read(path):match "^#%s+([^\n]+)" or read(path):match "\n#%s+([^\n]+)" or path
end

-- "Memory" of "Memory: how clones share a template's heap"
local function short_title(path)
  local title = title_of(path):gsub("`", "")
  local short = title:match "^([^:?]+): "
  return short or title
end

-- ---- navigation ----

-- {{title, {{title, path}...}}...}
local function navigation()
  local sections, listed, section = {}, {[INDEX] = true}, nil
  for line in read(INDEX):gmatch "[^\n]+" do
    local heading = line:match "^## (.*)"
    if heading then
      section = {heading, {}}
      sections[#sections + 1] = section
    elseif section then
      for _, link in ipairs(links_of(line)) do
        local path = resolve(folder_of(INDEX), link[2]:gsub("#.*", ""))
        if is_page[path] and not listed[path] then
          listed[path] = true
          table.insert(section[2], {short_title(path), path})
        end
      end
    end
  end
  local more = {"Measurements", {{"Measuring", "bench/README.md"}, {"Results", "bench/results/results.md"},
    {"Steps", "bench/steps.md"}}}
  sections[#sections + 1] = more
  for _, path in ipairs{"README.md", "bench/README.md", "bench/steps.md", "bench/results/results.md"} do
    listed[path] = true
  end
  for _, path in ipairs(pages) do
    if path:find "^doc/decisions/%d" and listed["doc/decisions/README.md"] then listed[path] = true end
    if not listed[path] then complain("%s does not list %s", INDEX, path) end
  end
  return sections
end

-- ---- files that pages link to ----

local function copy(path, into)
  os.execute(("mkdir -p %s && cp %s %s"):format(shell_quote(into .. "/" .. folder_of(path)), shell_quote(path),
    shell_quote(into .. "/" .. path)))
end

-- A browser shows what ends in .txt; other endings it would offer to save.
local SHOWN = {svg = true, png = true, html = true, css = true, txt = true}

-- For the target of a link of a page: the target on the site.
local function site_target(page, target, into)
  if target:find "^%a+:" or target:find "^#" then return target end
  local file, anchor = target:match "^([^#]*)(.*)$"
  local path = resolve(folder_of(page), file)
  if is_page[path] or not exists(path) then return target end
  if is_folder(path) then
    local list = {"# " .. path .. "\n"}
    for _, name in ipairs(lines_of(("cd %s && find . -maxdepth 1 -type f | sort"):format(shell_quote(path)))) do
      name = name:sub(3)
      copy(path .. "/" .. name, into)
      os.rename(into .. "/" .. path .. "/" .. name, into .. "/" .. path .. "/" .. name .. ".txt")
      list[#list + 1] = ("- [%s](%s.txt)"):format(name, name)
    end
    if is_page[path .. "/README.md"] then return file:gsub("/*$", "/README.md") .. anchor end
    write(into .. "/" .. path .. "/files.md", table.concat(list, "\n") .. "\n")
    return file:gsub("/*$", "/files.md")
  end
  copy(path, into)
  if SHOWN[path:match "%.(%w+)$"] then return target end
  os.rename(into .. "/" .. path, into .. "/" .. path .. ".txt")
  return file .. ".txt"
end

-- GitHub's Markdown and that of mkdocs differ: what is inside of a list item has four spaces here.
local function adapted(text)
  local out, inside, fenced = {}, false, false
  for line in (text .. "\n"):gmatch "(.-)\n" do
    if line:find "^```" then fenced = not fenced end
    if not fenced then
      if line:find "^%s*[-*] " or line:find "^%s*%d+%. " then
        inside = true
      elseif line:find "^%S" then
        inside = false
      end
      if inside then line = line:gsub("^( +)", "%1%1") end
    end
    out[#out + 1] = line
  end
  return table.concat(out, "\n")
end

local function with_site_links(page, text, into)
  return (text:gsub("(%]%()([^%s)]+)(%))", function(open, target, close)
    return open .. site_target(page, target, into) .. close
  end))
end

local function put_page(path, into)
  os.execute("mkdir -p " .. shell_quote(into .. "/" .. folder_of(path)))
  local parts, at = {}, 1
  local text = read(path)
  while true do -- code stays as it is
    local from, to = text:find("\n```.-\n```", at)
    parts[#parts + 1] = with_site_links(path, text:sub(at, from and from - 1), into)
    if not from then break end
    parts[#parts + 1] = text:sub(from, to)
    at = to + 1
  end
  write(into .. "/" .. path, adapted(table.concat(parts)))
end

-- ---- all together ----

local function yaml(text) return '"' .. text:gsub('[\\"]', "\\%0") .. '"' end

local function configuration(sections, theme)
  local lines = {
    "site_name: moonfork",
    "docs_dir: pages",
    "site_dir: html",
    "use_directory_urls: false",
    "theme:",
    "  name: null",
    "  custom_dir: " .. yaml(theme),
    "  static_templates: [404.html]",
    "  include_search_page: true",
    "plugins: [search]",
    "markdown_extensions: [tables, fenced_code, sane_lists, attr_list, {toc: {permalink: false}}]",
    "nav:",
    "  - moonfork: README.md",
    "  - Documentation: doc/README.md",
  }
  for _, section in ipairs(sections) do
    if #section[2] > 0 then
      lines[#lines + 1] = "  - " .. yaml(section[1]) .. ":"
      for _, page in ipairs(section[2]) do
        lines[#lines + 1] = ("    - %s: %s"):format(yaml(page[1]), page[2])
      end
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

local sections = navigation()
if arg[1] ~= "--check" then
  local folder = assert(arg[1], "usage: build.lua FOLDER | --check")
  local into = folder .. "/pages"
  os.execute(("rm -rf %s && mkdir -p %s"):format(shell_quote(into), shell_quote(into)))
  for _, path in ipairs(pages) do put_page(path, into) end
  local top = lines_of "pwd"[1]
  write(folder .. "/mkdocs.yml", configuration(sections, top .. "/doc/site/theme"))
end
os.exit(complaints == 0)
