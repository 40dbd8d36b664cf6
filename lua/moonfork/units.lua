-- Amounts as a person reads them. Runs in the program `moonfork`.

local units = {}

local BYTES = { { 1 << 30, "%.1f", "GiB", "G" }, { 1 << 20, "%.1f", "MiB", "M" }, { 1 << 10, "%.0f", "KiB", "K" } }

-- "1.5 GiB", "-28.3 MiB"; short, for columns: "1.5G".
function units.bytes(n, short)
  local magnitude = math.abs(n)
  for i, unit in ipairs(BYTES) do
    if magnitude >= unit[1] or i == #BYTES then
      return unit[2]:format(n / unit[1]) .. (short and unit[4] or " " .. unit[3])
    end
  end
end

return units
